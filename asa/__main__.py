"""Command line: fit an adapter, reproduce, ask, score, serve and share it. `asa COMMAND --help` says how.

Nothing is loaded until it is known what is wanted. What the commands do stands in `asa.app`.
"""

import argparse
import sys
from pathlib import Path

from asa.app import ASSETS
from asa.support.environment import print_any_text, share_cores
from asa.support.files import STOPPED, UserError, shipped

AUTO, MORE = "auto", "outputs/more_tools"


def fit(arguments: list[str]) -> None:
    """Run the pipeline, whose options are its own."""
    sys.argv, script = ["asa fit", *arguments], shipped("pipeline.py")
    # not by runpy, which would name the script in its help
    exec(compile(Path(script).read_text("utf-8"), script, "exec"), {"__name__": "__main__", "__file__": script})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="asa", description="Activation-steering adapters for tool calling.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    commands.add_parser("fit", help="fit an adapter: the pipeline", add_help=False)
    commands.add_parser("serve", help="serve an adapter's model by vLLM, as OpenAI's API", add_help=False)
    commands.add_parser("reproduce", help="make a results.json again and compare its numbers", add_help=False)

    def command(name: str, says: str, example: str) -> argparse.ArgumentParser:
        more = commands.add_parser(name, help=says, description=f"{says.capitalize()}.", epilog=f"example: {example}")
        more.set_defaults(command=name)
        if name != "check":  # which needs no adapter
            more.add_argument("--assets", default=ASSETS, help=f"adapter folder or hub id, {ASSETS} by default")
        return more

    asks = command("ask", "answer requests", 'asa ask "What is 17 * 23?"')
    asks.add_argument("text", nargs="*", help="a request each; without any, the lines of standard input")
    talks = command("chat", "chat in the terminal or the browser", "asa chat --web")
    where = talks.add_mutually_exclusive_group()
    where.add_argument("--web", action="store_true", help="in the browser, without and with the adapter side by side")
    where.add_argument("--terminal", action="store_true", help="in the terminal, as without --web")
    talks.add_argument("--host", help="with --web: address to listen on; this machine's own by default")
    talks.add_argument("--port", type=int, help="with --web: its port; the first free one from 7860 by default")
    talks.add_argument("--share", action="store_true", help="with --web: a public link, through Gradio's servers")
    scores = command("evaluate", "score an adapter on labelled requests", "asa evaluate --requests data/held_out.jsonl")
    scores.add_argument("--requests", required=True, help="labelled requests, as asa fit takes them")
    scores.add_argument("--reliability", default="", metavar="PICTURE", help="draw how far p(tool) can be trusted")
    adds = command("add", "fit an adapter to further tools", "asa add weather.json --requests weather.csv")
    adds.add_argument("more", metavar="TOOLS", help="the new tools, as asa fit takes them")
    adds.add_argument("--requests", required=True, help="their labelled requests; 16 of each label and tool are enough")
    adds.add_argument("--known", default="", help="labelled requests of the adapter's own tools; else the project's")
    adds.add_argument("--out", default=MORE, help=f"folder of the new adapter, {MORE} by default")
    checks = command("check", "say what is wrong with labelled requests", "asa check requests.csv --tools tools.json")
    marks = command("label", "label requests, with what an adapter proposes", "asa label questions.txt")
    for part, kind in ((checks, "labelled requests"), (marks, "requests; in a text file, one per line")):
        part.add_argument("requests", help=f"a file of {kind}")
        part.add_argument("--tools", default="", help="tools file; only its domains are allowed")
    marks.add_argument("--out", default="", help="JSON lines to add to; REQUESTS.labelled.jsonl here by default")
    pushes = command("push", "put an adapter on the hub, with a model card", "asa push owner/name --private")
    pushes.add_argument("repo", help="owner/name; it is made where there is none")
    pushes.add_argument("--private", action="store_true", help="make it private")
    for part in (asks, talks, scores, marks, adds):
        part.add_argument("--model", default="", help="model folder or hub id, in place of the one the adapter names")
    for part in (asks, talks):
        part.add_argument("--no-steer", action="store_true", help="the model alone, without the adapter")
        part.add_argument("--functions", default="", help="module:name of the functions to run, by the tools' names")
        part.add_argument("--tool-choice", default=AUTO, help="auto, required, none, or a tool's name")
    asks.add_argument("--json", action="store_true", help="print JSON, one line per answer")
    for part in (scores, checks):
        part.add_argument("--json", action="store_true", help="print JSON")
    return parser


def main() -> int:
    """Run the command line; returns the exit status."""
    print_any_text()
    command, arguments = sys.argv[1:2], sys.argv[2:]
    try:
        if command == ["fit"]:
            fit(arguments)
        elif command == ["serve"]:
            from asa.app.serving import serve  # needs little, and vLLM

            serve(arguments)
        elif command == ["reproduce"]:
            from asa.app.reproducing import reproduce

            reproduce(arguments)
        else:
            given = _parser().parse_args()
            share_cores()  # before torch is loaded
            from asa.app.commands import COMMANDS

            COMMANDS[given.command](given)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if command == ["fit"]:
            print(f"\n{STOPPED}", file=sys.stderr)
        return 130
    return 0


def run() -> None:
    """The installed command `asa`."""
    sys.exit(main())


if __name__ == "__main__":
    run()
