"""The launcher, with a `gcloud` that only writes down what it is asked for."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "launch" / "cloud-tpu.sh"
BASH = shutil.which("bash")
pytestmark = pytest.mark.skipif(BASH is None, reason="needs bash")

ZONE = "--zone us-central2-b"
COMMAND = [
    "train", "prior", "vim-large", "--data", "gs://pics/a b/it's $HOME",
    "--workdir", "gs://runs/vim", "--mesh", "fsdp=8", "--set", "steps=3",
]  # fmt: skip
TRAINING = (
    "JAX_PLATFORMS=tpu,cpu minivim-env/bin/minivim train prior vim-large"
    " --data '/mnt/gcs/pics/a b/it'\\''s $HOME' --workdir /mnt/gcs/runs/vim"
    " --mesh fsdp=8 --set steps=3 --distributed"
)

# Calls go to a file, one a line. A slice is there from its creation to its deletion;
# training commands end with the codes in `codes`, one after the other, `gone` with the
# slice preempted.
GCLOUD = """#!/usr/bin/env bash
cd "$(dirname "$0")" || exit 99
{ printf '%q ' "$@"; echo; } >>calls
case "$*" in
  *"tpu-vm describe"*) cat slice 2>/dev/null || exit 1 ;;
  *"queued-resources describe"*) cat request 2>/dev/null || exit 1 ;;
  *"queued-resources create"*)
    [ ! -e no-queue ] || exit 1
    [ -e request ] || echo ACTIVE >request
    [ "$(cat request)" != ACTIVE ] || echo READY >slice ;;
  *"queued-resources delete"*) [ -e request ] || exit 1; rm -f request slice ;;
  *"tpu-vm create"*) [ ! -e no-direct ] || exit 1; echo READY >slice ;;
  *"tpu-vm delete"*) rm -f slice ;;
  *minivim-env/bin/minivim\\ train\\ *)
    case "$*" in *pkill*) exit 0 ;; esac
    code=$(head -n 1 codes); sed -i 1d codes
    [ "$code" != gone ] || { echo PREEMPTED >slice; code=143; }
    exit "${code:-0}" ;;
esac
"""


class Launch:
    def __init__(self, folder: Path):
        self.folder = folder
        fake = folder / "gcloud"
        fake.write_text(GCLOUD)
        fake.chmod(0o755)
        (folder / "git").write_text("#!/bin/sh\n")
        (folder / "git").chmod(0o755)
        self.codes("0")

    def codes(self, *codes: str) -> None:
        (self.folder / "codes").write_text("\n".join(codes) + "\n")

    def has(self, **files: str) -> None:
        for name, text in files.items():
            (self.folder / name.replace("_", "-")).write_text(text)

    def __call__(self, *options: str, command=COMMAND, **variables: str):
        kept = {k: v for k, v in os.environ.items() if k in ("HOME", "LANG")}
        return subprocess.run(
            [BASH, str(SCRIPT), *options, "--", *command],
            env={**kept, "PATH": f"{self.folder}:{os.environ['PATH']}",
                 "LAUNCH_PAUSE": "0", "TMPDIR": str(self.folder), **variables},
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    @property
    def calls(self) -> list[list[str]]:
        file = self.folder / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        return [shlex.split(line) for line in lines]

    @property
    def done(self) -> list[str]:
        """The calls in a word or two each, questions left out."""
        return [brief(call) for call in self.calls if "describe" not in call]


def brief(call: list[str]) -> str:
    text = " ".join(call)
    if "--command" not in call:
        return " ".join(call[2:4])
    return next(
        word
        for word in ("pip install", "gcsfuse", "pkill", "train")
        if word in text.replace("minivim train'", "")
    )


@pytest.fixture
def launch(tmp_path):
    return Launch(tmp_path)


MADE = ["queued-resources create", "tpu-vm scp", "pip install", "gcsfuse"]
DELETED = ["queued-resources delete"]


# --- the commands ------------------------------------------------------------------


def test_a_dry_run_prints_every_command_and_runs_none(launch):
    done = launch("--zone", "us-central2-b", "--spot", "--dry-run")
    assert (done.returncode, done.stderr, launch.calls) == (0, "", [])
    lines = done.stdout.splitlines()
    tpus, all_workers = "gcloud compute tpus", "--worker all --command"
    archive = f"{launch.folder}/minivim-minivim.tar.gz"
    for line, start in zip(
        lines,
        [
            f"{tpus} queued-resources create minivim --node-id minivim --accelerator-"
            f"type v4-8 --runtime-version tpu-ubuntu2204-base --spot {ZONE}",
            f"git -C {ROOT} archive --format tar.gz --output {archive} HEAD",
            f"{tpus} tpu-vm scp {archive} minivim:minivim.tar.gz --worker all {ZONE}",
            f"{tpus} tpu-vm ssh minivim {all_workers} 'rm -rf minivim && mkdir minivim",
            f"{tpus} tpu-vm ssh minivim {all_workers} 'command -v gcsfuse",
            f"{tpus} tpu-vm ssh minivim {all_workers} 'JAX_PLATFORMS=tpu,cpu ",
            f"{tpus} queued-resources delete minivim --force --quiet {ZONE}",
            f"{tpus} tpu-vm delete minivim --quiet {ZONE}",
        ],
        strict=True,
    ):
        assert line.startswith(start)
    words = shlex.split(lines[5])
    assert words[words.index("--command") + 1] == TRAINING
    assert not (launch.folder / "minivim-minivim.tar.gz").exists()


def test_what_is_printed_is_what_is_run(launch):
    # No slice outlives the request it came from.
    dry = launch("--zone", "us-central2-b", "--dry-run").stdout.splitlines()[:-1]
    assert launch("--zone", "us-central2-b").returncode == 0
    printed = [shlex.split(line)[1:] for line in dry if line.startswith("gcloud")]
    assert [call for call in launch.calls if "describe" not in call] == printed


def test_a_worker_reads_the_command_as_it_was_given():
    """Through a shell, as ssh starts one."""
    shown = TRAINING.replace(
        "JAX_PLATFORMS=tpu,cpu minivim-env/bin/minivim", "printf '%s\\n'"
    )
    done = subprocess.run(
        [BASH, "-c", shown], capture_output=True, text=True, check=True
    )
    words = [word.replace("gs://", "/mnt/gcs/") for word in COMMAND]
    assert done.stdout.splitlines() == [*words, "--distributed"]


def test_commands_of_the_workers_are_commands(launch):
    """bash reads them all, and what is mounted is both buckets, one without a cache."""
    launch("--zone", "us-central2-b")
    commands = [c[c.index("--command") + 1] for c in launch.calls if "--command" in c]
    assert len(commands) == 3
    for text in commands:
        subprocess.run([BASH, "-n", "-c", text], check=True)
    mounts = [part for part in commands[1].split("{ mountpoint")[1:]]
    assert ["--metadata-cache-ttl-secs 0 runs /mnt/gcs/runs;" in m for m in mounts] == [
        False, True,
    ]  # fmt: skip
    assert "--rename-dir-limit 100000 pics /mnt/gcs/pics;" in mounts[0]
    assert "-c constraints.txt -e '.[plan]'" in commands[0]


def test_variables_and_options_say_the_same(launch):
    options = (
        "--name", "big", "--zone", "z", "--type", "v4-128", "--project", "mine",
        "--software", "other", "--dry-run",
    )  # fmt: skip
    said = {
        "NAME": "big", "ZONE": "z", "ACCELERATOR_TYPE": "v4-128", "PROJECT": "mine",
        "SOFTWARE": "other",
    }  # fmt: skip
    one, other = launch(*options), launch("--dry-run", **said)
    assert one.stdout == other.stdout
    assert "v4-128" in one.stdout and "--zone z --project mine" in one.stdout


# --- restarts ----------------------------------------------------------------------


def test_a_run_is_started_again_until_it_ends_well(launch):
    launch.codes("1", "139", "0")
    done = launch("--zone", "z")
    assert done.returncode == 0
    again = ["pkill", "gcsfuse", "train"]
    assert launch.done == [*MADE, "train", *again, *again, *DELETED]
    assert "exit 1; restart 1 of at most 100" in done.stderr
    assert "exit 139; restart 2 of at most 100" in done.stderr


def test_a_mistake_is_not_tried_again(launch):
    launch.codes("2", "0")
    done = launch("--zone", "z")
    assert done.returncode == 2
    assert launch.done == [*MADE, "train", *DELETED]
    assert "a mistake in the command" in done.stderr


def test_restarts_have_an_end(launch):
    launch.codes(*["1"] * 9)
    done = launch("--zone", "z", "--restarts", "2")
    assert done.returncode == 1
    assert launch.done.count("train") == 3
    assert launch.done[-1:] == DELETED
    assert "giving up" in done.stderr


def test_a_slice_that_was_taken_away_is_made_again(launch):
    launch.codes("gone", "0")
    done = launch("--zone", "z", "--spot")
    assert done.returncode == 0
    assert launch.done == [*MADE, "train", *DELETED, *MADE, "train", *DELETED]


def test_a_slice_is_kept_when_asked(launch):
    done = launch("--zone", "z", "--keep")
    assert launch.done == [*MADE, "train"]
    assert "is kept, and paid for" in done.stderr
    (launch.folder / "calls").unlink()
    launch.codes("0")
    assert launch("--zone", "z").returncode == 0
    # It is used, and deleted this time.
    assert launch.done == [*MADE[1:], "train", *DELETED]


@pytest.mark.parametrize("state", ["FAILED", "SUSPENDED"])
def test_without_a_place_in_the_queue_it_is_asked_for_directly(launch, state):
    launch.has(request=state)
    assert launch("--zone", "z", "--spot").returncode == 0
    direct = "tpu-vm create minivim --accelerator-type v4-8 --version"
    [made] = [call for call in launch.calls if "tpu-vm create" in " ".join(call)]
    assert " ".join(made[2:]).startswith(direct) and "--spot" in made
    assert launch.done == [
        MADE[0], *DELETED, "tpu-vm create", *MADE[1:], "train", *DELETED,
        "tpu-vm delete",
    ]  # fmt: skip


def test_a_queue_that_refuses(launch):
    launch.has(no_queue="")
    assert launch("--zone", "z").returncode == 0
    assert "tpu-vm create" in launch.done and launch.done[-1] == "tpu-vm delete"


def test_a_slice_that_cannot_be_made_ends_it(launch):
    launch.has(no_queue="", no_direct="")
    assert launch("--zone", "z").returncode == 1
    assert "train" not in launch.done and "pip install" not in launch.done


# --- mistakes ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "command", "message"),
    [
        ((), COMMAND, "give --zone"),
        (("--zone", "z"), ["sample", "x"], "give the command after --"),
        (("--zone", "z"), COMMAND[:5], "give --workdir gs://BUCKET/PATH"),
        (
            ("--zone", "z"),
            ["train", "--data", "gs://b/c", "--workdir", "runs"],
            "give --workdir gs://BUCKET/PATH",
        ),
        (("--zone", "z", "--sopt"), COMMAND, "no option --sopt"),
        (("--zone", "z", "--restarts", "many"), COMMAND, "not a whole number"),
    ],
)
def test_a_mistake_costs_nothing(launch, options, command, message):
    done = launch(*options, command=command)
    assert done.returncode == 2
    assert message in done.stderr and len(done.stderr.splitlines()) == 1
    assert launch.calls == []


def test_without_gcloud(launch, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("dirname",):
        (tools / name).symlink_to(shutil.which(name))
    done = launch("--zone", "z", PATH=str(tools))
    assert done.returncode == 2 and "gcloud is not installed" in done.stderr


@pytest.mark.parametrize("way", [["--workdir=gs://b/r"], ["--workdir", "gs://b/r"]])
def test_both_ways_of_giving_the_workdir(launch, way):
    done = launch("--zone", "z", "--dry-run", command=["train", "a", "b", *way])
    assert done.returncode == 0
    assert "/mnt/gcs/b/r --distributed" in done.stdout
    assert "--metadata-cache-ttl-secs 0 b /mnt/gcs/b" in done.stdout
