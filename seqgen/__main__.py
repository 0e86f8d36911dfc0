"""`seqgen run|report|data|diagnose …`, the same as `python -m seqgen.run …` and so on."""

import runpy
import sys

from seqgen.completion import complete, wants_completion

COMMANDS = {
    "run": "train, evaluate and record; -m sweeps",
    "compare": "tune models alike, run them over seeds, report",
    "report": "compare finished runs",
    "data": "look at a data set",
    "diagnose": "what a trained model does inside",
}


def main() -> None:
    """Hand over to the command that is named first."""
    if wants_completion(sys.argv):
        complete(sys.argv, list(COMMANDS))
        return
    if len(sys.argv) > 1 and sys.argv[1] in COMMANDS:
        # What Lightning starts for other devices is this command line again.
        name = f"seqgen.{sys.argv.pop(1)}"
        try:
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        except KeyboardInterrupt:  # before the command could take care of it
            print("seqgen: stopped before it began", file=sys.stderr)
            sys.exit(130)
        return
    wanted = len(sys.argv) > 1 and sys.argv[1] not in ("-h", "--help")
    if wanted:
        print(f"seqgen: there is no command {sys.argv[1]!r}.", file=sys.stderr)
    lines = [f"  seqgen {name:9} {text}" for name, text in COMMANDS.items()]
    print("\n".join(["Commands, each with --help:", *lines]), file=sys.stderr if wanted else sys.stdout)
    sys.exit(1 if wanted else 0)


if __name__ == "__main__":
    main()
