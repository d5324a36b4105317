"""Commands read what they are given and ask nobody: every open and connect is noted."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from minivim.data import shapes
from tests import tiny
from tests.tokenizer.test_convert import random_state

HERE = Path(__file__).parent
# Fonts and time zones; what a CPU and its memory are; shared memory of workers.
SYSTEM = (
    "/proc", "/sys", "/dev/null", "/dev/urandom", "/dev/shm", "/usr/share/fonts",
    "/usr/share/zoneinfo", "/usr/local/share/fonts", "/usr/share/locale", "/etc/fonts",
    "/etc/localtime", "/etc/mime.types",
)  # fmt: skip
OURS = ("minivim", "minivim_lab", "tests/offline")
PROGRAM = sorted(
    {
        str(place)
        for prefix in (sys.prefix, sys.base_prefix, sys.exec_prefix)
        for place in (prefix, os.path.realpath(prefix))
    }
    | {str(HERE.parent / name) for name in (*OURS, "minivim.egg-info")}
)
TRAP = "open('sprung', 'w')\n"
# Of what our own processes send each other: a source and the tables it holds.
OWN = ("grain", "minivim", "multiprocessing", "numpy", "builtins", "collections")
OWN += ("datasets", "pyarrow", "pathlib", "functools", "ctypes")


def below(path: str, *folders: object) -> bool:
    return any(Path(path).is_relative_to(str(folder)) for folder in folders)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The current folder, with data that hold programs, beside a home of secrets."""
    place = tmp_path_factory.mktemp("watched")
    for name in ("work", "home", "cache", "temp"):
        (place / name).mkdir()
    work = place / "work"
    tiny.pictures(work / "pictures")
    (work / "tables").mkdir()
    for name in ("train-0", "test-0"):
        drawn = shapes.dataset("test", size=24)
        drawn.to_parquet(work / f"tables/{name}.parquet")
    drawn.save_to_disk(work / "saved")
    save_file(
        {k: v.numpy().copy() for k, v in random_state().items()},
        work / "public.safetensors",
    )
    for folder in ("pictures", "tables", "saved", "."):
        for name in ("sitecustomize.py", "conftest.py", "datasets.py", f"{folder}.py"):
            (work / folder / name.replace("..", ".")).write_text(TRAP)
    return place


def watched(place, *arguments) -> tuple[str, list[list[str]]]:
    """What a program of ours prints, and what was noted of it and of its children."""
    log = Path(tempfile.mkstemp(dir=place)[1])
    kept = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(place / "cache/jax"))
    kept = os.path.abspath(kept)
    folders = {
        "HOME": "home", "TMPDIR": "temp", "XDG_CACHE_HOME": "cache", "HF_HOME":
        "cache/hf", "MPLCONFIGDIR": "cache/mpl", "XDG_CONFIG_HOME": "home/.config",
    }  # fmt: skip
    unwanted = ("HF_", "HUGGINGFACE", "TRANSFORMERS", "PYTEST", "COV_")
    env = {k: v for k, v in os.environ.items() if not k.startswith(unwanted)}
    env |= {name: str(place / folder) for name, folder in folders.items()}
    env |= {"PYTHONPATH": f"{HERE / 'offline'}{os.pathsep}{HERE.parent}"}
    env |= {"WATCHED_LOG": str(log), "JAX_COMPILATION_CACHE_DIR": kept}
    assert not [name for name in env if "OFFLINE" in name]
    done = subprocess.run(
        [sys.executable, *arguments], cwd=place / "work", env=env,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    noted = [line.split("\t") for line in log.read_text().splitlines()]
    assert len(noted) > 100  # or nothing was watched
    given = (place / "work", place / "cache", place / "temp", kept, log)
    return done.stdout, [one for one in noted if not allowed(*one, given)]


def allowed(event: str, what: str, given: tuple) -> bool:
    if event == "open":
        return below(what, *PROGRAM, *SYSTEM, *given)
    if event == "exec":
        return below(what, *PROGRAM)
    if event == "pickle.find_class":  # between our own processes
        return what.split(".")[0] in OWN
    # matplotlib lists the fonts when it is used for the first time.
    return (event, what) == ("subprocess.Popen", "fc-list")


def run(place, *commands: str, **texts: str) -> None:
    """The commands end with 0, and nothing is read, run or asked that none names."""
    words = [[w.format(**texts) for w in command.split()] for command in commands]
    words = [[v for w in c for v in w.split("\n")] for c in words]
    out, noted = watched(place, HERE / "offline/commands.py", json.dumps(words))
    assert noted == []
    assert set(json.loads(out.splitlines()[-1])) == {0}
    assert not list(place.rglob("sprung")) and not os.listdir(place / "home")


SETTINGS = {
    "tokenizer": "\n".join(tiny.TOKENIZER_SETTINGS),
    "prior": "\n".join([*tiny.PRIOR_SETTINGS, "tokenizer=tok"]),
    "classifier": "\n".join(
        ["image_size=8", "num_classes=3", "width=8", *tiny.RUN_SETTINGS]
    ),
}


@pytest.fixture(scope="module")
def trained(place):
    """A tokenizer and a prior, trained under watch."""
    run(
        place,
        "recipes",
        "recipes shapes",
        "train tokenizer shapes --data pictures --workdir tok --set {tokenizer}",
        "train prior shapes --data pictures --workdir prior --set {prior}",
        **SETTINGS,
    )
    return place


def test_training_drawing_and_measuring(trained):
    run(
        trained,
        "encode tok --data pictures --out codes",
        "train prior shapes --data codes --workdir again --set {prior}",
        "reconstruct tok --data pictures --out pairs.png --count 3",
        "sample prior --out samples.png --count 1",
        "complete prior pictures --out rest.png --first 1 --count 1",
        "evaluate tok prior --data pictures --json figures.json",
        "convert vit-vqgan public.safetensors --out public",
        **SETTINGS,
    )


@pytest.mark.slow
def test_other_stages_kinds_of_data_and_processes(trained):
    run(
        trained,
        "train classifier shapes --data pictures --workdir cls --set {classifier}",
        "train prior shapes --data pictures --workdir bare --set {prior} num_classes=0 "
        "label_dropout=0",
        "train probe shapes --data pictures --workdir probed --set prior=bare "
        "tokenizer=tok train_size=20 test_size=3",
        "sample prior --out b.png --count 1 --acceptance 0.5 --classifier cls",
        "evaluate cls --data pictures",
        "evaluate shapes/tokenizer --count 8",
        "encode tok --data tables --out codes2 --workers 1",
        "train tokenizer shapes --data tables --workdir streamed --stream --set "
        "{tokenizer}",
        "reconstruct tok --data saved --out a.png --count 3",
        "reconstruct tok --data pictures/class0/0.png --out a.png --count 1",
        **SETTINGS,
    )


SINS = {
    "import os; open(os.environ['HOME'] + '/secret', 'w')": "open",
    "exec(compile(open('tables/tables.py').read(), __import__('os').path.abspath("
    "'tables/tables.py'), 'exec'))": "exec",
    "import subprocess; subprocess.run(['true'])": "subprocess.Popen",
    "import os; os.system('true')": "os.system",
    "import pickle, json; pickle.loads(pickle.dumps(json.loads))": "pickle.find_class",
    "import contextlib, socket\nwith contextlib.suppress(OSError):\n"
    "    socket.getaddrinfo('x.example', 80)": "socket.getaddrinfo",
    "import contextlib, urllib.request as u\nwith contextlib.suppress(OSError):\n"
    "    u.urlopen('http://127.0.0.1:9')": "urllib.Request",
}


@pytest.mark.parametrize("sin", SINS)
def test_what_is_not_allowed_is_seen(place, sin):
    _, noted = watched(place, "-c", f"import numpy, json\n{sin}")
    assert SINS[sin] in [event for event, *_ in noted]
    for name in ("home/secret", "work/sprung"):
        (place / name).unlink(missing_ok=True)
