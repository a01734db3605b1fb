"""`spillway model list|show|load|unload`: what the server's repository holds, and what of it is served."""

import argparse
from urllib.parse import quote

from runtime.cli import output
from runtime.cli.files import read_file
from runtime.cli.model_page import Metadata, print_page
from runtime.cli.server import add_grpc_flags, add_http_flags, connect, deadline_of, get, get_status
from runtime.core.errors import InvalidRequest, ModelNotFound

LOAD_TIMEOUT_S = 600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verbs and their flags."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    listing = verbs.add_parser("list", help="all models of the repository and their states")
    add_grpc_flags(listing, timeout_s=10.0)
    listing.set_defaults(verb_run=list_models)

    show = verbs.add_parser("show", help="how one model is served, and why so")
    show.add_argument("model")
    show.add_argument("--version", type=int, metavar="N", help="default: all versions")
    add_http_flags(show, timeout_s=10.0)
    show.set_defaults(verb_run=show_model)

    load = verbs.add_parser("load", help="load a model, or load it again")
    load.add_argument("model")
    load.add_argument("--config", metavar="FILE", help="config (JSON) in place of the folder's config.pbtxt")
    text = "file in place of the folder's, e.g. 1/model.onnx=new.onnx; needs --config; may be given several times"
    load.add_argument("--file", action="append", default=[], metavar="PATH=LOCAL", help=text)
    add_grpc_flags(load, timeout_s=LOAD_TIMEOUT_S)
    load.set_defaults(verb_run=load_model)

    unload = verbs.add_parser("unload", help="stop serving a model; what it has is finished")
    unload.add_argument("model")
    add_grpc_flags(unload, timeout_s=60.0)
    unload.set_defaults(verb_run=unload_model)

    for verb in (listing, show, load, unload):
        verb.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Run the verb."""
    return int(args.verb_run(args))


def list_models(args: argparse.Namespace) -> int:
    """Print the repository's index."""
    with connect(args) as client:
        index = client.index(deadline_s=deadline_of(args))
    models = [
        {"model": each.name, "version": each.version, "state": each.state, "reason": each.reason} for each in index
    ]
    if args.json:
        output.as_json(models)
    elif models:
        output.table(("model", ">version", "state", "reason"), [list(each.values()) for each in models])
    else:
        output.say("the repository holds no models")
    return 0


def load_model(args: argparse.Namespace) -> int:
    """Load a model and say which versions are ready."""
    config = None if args.config is None else read_file(args.config).decode(errors="replace")
    files = dict(_override(text) for text in args.file)
    with connect(args) as client:
        client.load(args.model, config=config, files=files, deadline_s=deadline_of(args))
        index = client.index(deadline_s=deadline_of(args))
    ready = [int(each.version) for each in index if each.name == args.model and each.state == "READY"]
    if args.json:
        output.as_json({"model": args.model, "ready": ready})
    else:
        output.say(f"{args.model} is loaded, ready: version {', '.join(map(str, ready))}")
    return 0


def _override(text: str) -> tuple[str, bytes]:
    path, equals, local = text.partition("=")
    if not equals or not path or not local:
        raise InvalidRequest(f"--file {text!r} is not PATH=LOCAL, e.g. 1/model.onnx=new.onnx")
    return path, read_file(local)


def unload_model(args: argparse.Namespace) -> int:
    """Unload a model."""
    with connect(args) as client:
        client.unload(args.model, deadline_s=deadline_of(args))
    if args.json:
        output.as_json({"model": args.model, "ready": []})
    else:
        output.say(f"{args.model} is unloaded")
    return 0


def show_model(args: argparse.Namespace) -> int:
    """Print the status document's part about one model."""
    models = [each for each in get_status(args).models if each.model == args.model]
    if not models:
        raise ModelNotFound(args.model)
    chosen = [each for each in models if args.version in (None, each.version)]
    if not chosen:
        raise InvalidRequest(
            f"model '{args.model}' has no version {args.version}, it has {[m.version for m in models]}"
        )
    if args.json:
        output.as_json(chosen)
        return 0
    for version in chosen:
        place = f"/v2/models/{quote(version.model)}/versions/{version.version}"
        print_page(version, get(args, place, Metadata) if version.state == "READY" else None)
    return 0
