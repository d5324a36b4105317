"""Whether a process that lives long stays flat: load, encode and sample, over again.

    python -m benchmarks.rounds --rounds 2000

Prints memory and the number of mappings as it goes, and ends with 1 where either grew
by more than a tenth after the first tenth of the rounds.
"""

import argparse
import sys
from pathlib import Path

import jax
import numpy as np

from minivim import prior, weights


def status() -> tuple[float, int]:
    """Resident memory in MB and memory mappings of this process (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    memory = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
    return memory / 1024, Path("/proc/self/maps").read_text().count("\n")


def one_round(number: int) -> None:
    """Both shipped models loaded anew, two pictures encoded, two sampled."""
    tokenizer, model = weights.load_pair("shapes/prior")
    assert tokenizer.card["kind"] == "tokenizer"
    size = tokenizer.config.image_size
    tokenizer.encode(np.full((2, size, size, 3), number % 256, np.uint8))
    codes = prior.sample(model, key=jax.random.key(number), labels=[0, 1])
    jax.block_until_ready(tokenizer.decode(codes))


def main() -> int:
    """Run the rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2_000)
    rounds = parser.parse_args().rounds
    first = None
    for number in range(rounds + 1):
        one_round(number)
        if number % max(1, rounds // 10) == 0:
            memory, mappings = status()
            print(
                f"round {number}: {memory:,.0f} MB, {mappings:,} mappings", flush=True
            )
            first = (memory, mappings) if number == max(1, rounds // 10) else first
    grown = first and (memory > 1.1 * first[0] or mappings > 1.1 * first[1])
    return int(bool(grown))


if __name__ == "__main__":
    sys.exit(main())
