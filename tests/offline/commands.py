"""Runs the commands of a JSON list in one process and prints their exit codes."""

import json
import sys

from minivim import cli

if __name__ == "__main__":
    print(json.dumps([cli.main(command) for command in json.loads(sys.argv[1])]))
