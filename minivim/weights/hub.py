"""Weights for the Hugging Face hub: the right files, and a page of what they are."""

import json
import re
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from minivim import weights
from minivim.config.checks import require
from minivim.errors import explained
from minivim.files import read_json, write_json

# The start of a path on this machine, which is nobody's business, up to its last name.
LOCAL = re.compile(r"(?<![\w./:\\~])(?:file:/*|~|[A-Za-z]:)?[\\/](?:.*[\\/])?(?=\S)")
PROBE, PROBE_CARD = "probe.safetensors", "probe.json"
PAGE = """---
library_name: minivim
tags: [minivim, jax, vit-vqgan, {kind}]
{licence}---

# {title}

A {kind} of minivim, trained on {data}.

```python
{how}
```

| figure | value |
|---|---|
{figures}

Its card:

```json
{card}
```
"""
HOW = {
    "prior": 'tokenizer, prior = minivim.load_pair("{name}")',
    "probe": f'layer = load_file(hf_hub_download("{{name}}", "{PROBE}"))',
}


def push(
    ref: str | Path, name: str, *, tokenizer: str | None = None, private: bool = False
) -> str:
    """Upload finished weights, or a probe, as `owner/name`; returns name@revision.

    A prior goes with its tokenizer, as `load_pair` finds it, in a folder of its own.
    Raises `UserError` for an unfinished run and where the hub cannot be used.
    """
    from huggingface_hub import HfApi, get_token

    told = f"{name!r} cannot be an id of the hub; give owner/name"
    require(weights.hub_id(name) and re.fullmatch(r"[\w.-]+/[\w.-]+", name), told)
    told = "the hub knows who uploads by a token, and there is none"
    require(get_token(), f"{told}; run `hf auth login` or set HF_TOKEN")
    with TemporaryDirectory() as folder:
        _lay_out(ref, Path(folder), name, tokenizer)
        remedy = "check the name, the rights of the token and the connection"
        with explained(f"cannot push to {name!r}", remedy):
            hub = HfApi()
            hub.create_repo(name, private=private or None, exist_ok=True)
            told = f"{name} is there already, for all to see; choose another name"
            require(not private or hub.model_info(name).private, told)
            how: Any = {"folder_path": folder, "commit_message": "Weights of minivim"}
            return f"{name}@{hub.upload_folder(repo_id=name, **how).oid}"


def _lay_out(ref: str | Path, folder: Path, name: str, tokenizer: Any) -> None:
    if (probe := Path(ref) / PROBE_CARD).exists():
        with explained(f"the probe in {ref} cannot be read", "train it again"):
            shutil.copy(probe.with_name(PROBE), folder)
            card = public(read_json(probe))
        write_json(folder / PROBE_CARD, card)
        (folder / "README.md").write_text(_page(name, {"kind": "probe"} | card))
        return
    _finished(weights.read_card(ref).path)
    models = {"": weights.load(ref)}
    if models[""].card["kind"] == "prior":
        models[weights.PAIRED], models[""] = weights.load_pair(ref, tokenizer)
    for part, model in models.items():
        source, card = Path(model.card.path), public(model.card.values)
        _finished(source)
        (folder / part).mkdir(exist_ok=True)
        shutil.copy(source / weights.WEIGHTS, folder / part)
        if not part:
            card |= {"tokenizer": weights.PAIRED} if weights.PAIRED in models else {}
            (folder / "README.md").write_text(_page(name, card))
        write_json(folder / part / weights.CARD, card)


def _finished(folder: str | Path) -> None:
    told = f"{folder} is a run that has not finished; start it again with its command"
    require(not (Path(folder) / weights.DRAFT).exists(), f"{told}, then push")


def public(value: Any) -> Any:
    """A card's value without the folders above what it names on this machine."""
    if isinstance(value, dict):
        return {key: public(x) for key, x in value.items()}
    if isinstance(value, list):
        return [public(x) for x in value]
    return LOCAL.sub("", value) if isinstance(value, str) else value


def _page(name: str, card: dict[str, Any]) -> str:
    how = HOW.get(card["kind"], 'model = minivim.load("{name}")').format(name=name)
    figures = card.get("figures", {}).items()
    rows = [f"| {k} | {x:.4g} |" for k, x in figures if type(x) in (int, float)]
    licence = card.get("licence", "").lower()
    licence = f"license: {licence}\n" if re.fullmatch(r"[\w.-]+", licence) else ""
    return PAGE.format(
        kind=card["kind"], title=name.partition("/")[2], how=how, licence=licence,
        data=card.get("data", "what its card does not say"), figures="\n".join(rows),
        card=json.dumps(card, indent=1),
    )  # fmt: skip
