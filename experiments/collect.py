"""Store finished runs as the results of an experiment: results.json without what belongs to one machine.

    python experiments/collect.py experiments/mqsa_ted/results outputs/.../ [outputs/.../ ...]

Writes NAME-seedS.json per run (NAME: --name, else the experiment's, else model-attention-data), without paths, process
id and host.
"""

import argparse
import json
from pathlib import Path

DROPPED = ("pid", "host", "config")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--name", help="of all these runs, which then differ in their seeds only")
    options = parser.parse_args()
    options.target.mkdir(parents=True, exist_ok=True)
    for run in options.runs:
        results = json.loads((run / "results.json").read_text())
        chosen = results["choices"]
        usual = "-".join(chosen[group] for group in ("model", "attention", "data"))
        name = options.name or chosen.get("experiment") or usual
        kept = {key: value for key, value in results.items() if key not in DROPPED}
        kept["overrides"] = [o for o in results["overrides"] if not o.startswith(("paths.", "hydra.", "ckpt_path="))]
        file = options.target / f"{name}-seed{results['seed']}.json"
        file.write_text(json.dumps(kept, indent=1) + "\n")
        print(file)


if __name__ == "__main__":
    main()
