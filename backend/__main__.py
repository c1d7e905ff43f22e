"""The command line: `python3 -m backend`.

Standard library only, so that it starts on a bare Python 3.11. A command that needs more makes the
environment first, says so, and goes on inside it. What the commands do is in the files they name.

Exit codes: 0 done, 2 the input cannot be used, 1 anything else that failed, 130 interrupted.
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 11):  # noqa: UP036 (an older Python gets a message, no traceback)
    sys.exit("Fieldforge needs Python 3.11 or newer. Install it from python.org or your system.")

import argparse
import contextlib
import errno
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from . import environment
from .bench_tables import BENCHES
from .errors import BadInput, FieldforgeError, InternalError, OutOfMemory, StorageFailed
from .terminal import ProgressBar

TASKS = {
    "points-to-mesh": "a surface through a point cloud (.ply .xyz .obj .glb .npz .npy)",
    "voxels-to-mesh": "a smooth surface around voxels (.json .npz .npy)",
    "image-to-mesh": "a shape from a picture of it",
    "sketch-to-mesh": "a shape from a line drawing",
    "depth-to-mesh": "a shape from a depth picture (.exr .npy, or a picture)",
    "views-to-mesh": "a shape from several views, in the order of the model's cameras",
    "text-to-mesh": "a shape from words, in quotes",
    "shape": "a shape of the model's own choice, from no input",
    "panorama-to-sphere": "surroundings from a panorama and its depth (.glb .blend .npz)",
    "panorama-to-stereo": "a panorama for each eye, from one and its depth (.png)",
    "panorama-to-depth": "the depth of a panorama, told by a model (.exr .npy .npz .png)",
    "text-to-panorama": "surroundings from words (.glb .blend .npz), or the picture (.png)",
    "image-to-views": "views around a thing from a picture, or from views with cameras (FOLDER)",
    "text-to-views": "views around a thing from words (FOLDER)",
    "views-to-scene": "a mesh with a texture from views with cameras (FOLDER, transforms.json)",
    "mesh-to-field": "a mesh, or one for each frame, as a small network (.ffield)",
    "field-to-mesh": "a .ffield as a mesh or an animation (.glb), or what lies between two",
    "animation": "a shape in motion of the model's own choice, from no input (.glb .ffield)",
}
INTERRUPTED = 130
BROKEN_PIPE = 141
_INSIDE = "FIELDFORGE_INSIDE"


class Parser(argparse.ArgumentParser):
    """Tells mistakes the way every other error is told: one line, cause and remedy."""

    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message[:1].upper()}{message[1:]}.", f'See "{self.prog} --help".')


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code and raises nothing but SystemExit for --help."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    wants_json = "--json" in arguments
    try:
        parser = make_parser()
        options, rest = parser.parse_known_args(_with_region(arguments))
        if options.command is None:
            parser.print_help()
            return 0
        if rest and options.command != "test":
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        options.rest = rest
        code = COMMANDS[options.command](options, arguments)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output (`head`, a pager) has seen enough. What is still in the buffer
        # goes nowhere, so that the end of Python does not stumble over it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except Exception as error:  # every way out is a message, never a traceback
        if os.environ.get("FIELDFORGE_DEBUG"):
            raise
        return _tell(_in_words(error), wants_json)


def _with_region(arguments: list[str]) -> list[str]:
    """--region and its box as one argument: a box may begin with a minus, as options do."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] == "--region":
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def make_parser() -> Parser:
    parser = Parser(
        prog="python3 -m backend",
        description="Fieldforge: meshes from what is in the viewport. Without Blender, too.",
        epilog="The first command that needs it installs the backend's packages (1.5 GB or more).",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    _add_run(commands)
    demo = commands.add_parser("demo", help="make a mesh, a .blend and a picture of an example")
    demo.add_argument("-o", "--output", type=Path, default=Path("out/demo"), metavar="FOLDER")
    _add_device(demo)
    _add_serve(commands)
    test = commands.add_parser("test", help="install what the tests need and run them")
    test.add_argument(
        "--ring", choices=("default", "blender", "real", "gpu", "large"), default="default"
    )
    bench = commands.add_parser("bench", help="measure speed and quality, print tables")
    bench.add_argument("--only", metavar="TABLE", choices=BENCHES, help=", ".join(BENCHES))
    _add_device(bench)
    bench.add_argument("--json", action="store_true", help="print one JSON line instead")
    doctor = commands.add_parser("doctor", help="what is installed, and what to do if it is not")
    doctor.add_argument("--json", action="store_true", help="print one JSON line instead")
    _add_models(commands)
    zipped = commands.add_parser("build-extension", help="make the .zip that Blender installs")
    zipped.add_argument("-o", "--output", type=Path, default=Path("dist"), metavar="FOLDER")
    return parser


def _add_run(commands: Any) -> None:
    run = commands.add_parser(
        "run",
        help="make something of a file",
        epilog="\n".join(f"{task}: {what}" for task, what in TASKS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument("task", choices=TASKS, metavar="TASK", help=", ".join(TASKS))
    run.add_argument("input", nargs="*", metavar="INPUT", help="file or files; the text")
    run.add_argument(
        "-o", "--output", type=Path, required=True, help=".glb .obj .ply .npz .blend; see TASK"
    )
    run.add_argument("--model", default="", metavar="ID", help="else the best one that is here")
    run.add_argument("--seed", type=int, default=0, metavar="N")
    run.add_argument(
        "--resolution", type=int, metavar="R", help="128, 256 or 512, of wavelet-fit and fields"
    )
    run.add_argument("--device", choices=("auto", "cpu", "cuda"))
    _add_generation(run.add_argument_group("models that generate"))
    _add_panorama(run.add_argument_group("panoramas"))
    _add_views(run.add_argument_group("views with cameras"))
    _add_fields(run.add_argument_group("neural fields and what moves"))
    run.add_argument("--json", action="store_true", help="print one JSON line at the end")
    run.add_argument("--server", metavar="URL", help="let a running backend do it")
    run.add_argument("--token", metavar="T", help="its token (or FIELDFORGE_TOKEN)")


def _add_generation(group: Any) -> None:
    group.add_argument("--steps", type=int, metavar="N", help="of the sampler; else the model's")
    group.add_argument(
        "--guidance", type=float, metavar="G", help="1 follows the input as trained, more insists"
    )
    group.add_argument(
        "--variations", type=int, default=1, metavar="N", help="of N seeds, as NAME-1 to NAME-N"
    )
    group.add_argument(
        "--as-published", action="store_true", help="as the published command, faults included"
    )
    group.add_argument(
        "--refine", action="store_true", help="lead the surface through the points or voxels"
    )
    group.add_argument("--up-axis", choices=("z", "y"), default="z", help="of the input")
    group.add_argument("--background", choices=("auto", "keep", "remove"), default="auto")
    group.add_argument("--cameras", metavar="N,N,...", help="the views' own, of the model's")
    group.add_argument("--depth-encoding", choices=("metres", "near-bright", "near-dark"))
    group.add_argument("--prompt", metavar="TEXT", help="the text, in place of INPUT")
    group.add_argument(
        "--keep", type=Path, metavar="RESULT.npz", help="an earlier result, to change --region of"
    )
    group.add_argument(
        "--region", metavar="X0,Y0,Z0,X1,Y1,Z1", help="the box to make anew, in the input's frame"
    )
    group.add_argument(
        "--preview", type=Path, metavar="FOLDER", help="write what forms, step by step (.ply)"
    )


def _add_panorama(group: Any) -> None:
    group.add_argument(
        "--depth", type=Path, metavar="FILE", help="of the panorama; else a second INPUT"
    )
    group.add_argument("--depth-model", default="", metavar="ID", help="which tells missing depth")
    group.add_argument(
        "--depth-meaning",
        choices=("metric", "inverse", "paper"),
        help="metres; 1 near --near and 0 at --far; 1 towards the eye and 0 away, 0.5 unmoved",
    )
    group.add_argument("--inverted", action="store_true", help="the depth is dark where it is near")
    group.add_argument("--near", type=float, metavar="M", help="metres, of inverse depth (1)")
    group.add_argument("--far", type=float, metavar="M", help="metres, of inverse depth (10)")
    group.add_argument("--radius", type=float, metavar="M", help="metres, of the paper's depth (5)")
    group.add_argument("--strength", type=float, metavar="S", help="of the paper's depth (1)")
    group.add_argument("--depth-scale", type=float, metavar="S", help="times the distance (1)")
    group.add_argument("--depth-offset", type=float, metavar="M", help="added to the distance (0)")
    group.add_argument(
        "--width", type=int, default=0, metavar="N", help="quads around; else as the depth, to 2048"
    )
    group.add_argument(
        "--edges",
        choices=("cut", "sheet"),
        default="cut",
        help="where depth jumps: cut, with a surface behind, or stretched",
    )
    group.add_argument(
        "--aspect",
        choices=("strict", "pad", "partial"),
        default="strict",
        help="of a picture that is not 2:1: refuse it, add what lacks, or see --field-of-view",
    )
    group.add_argument(
        "--field-of-view", type=float, default=180.0, metavar="DEGREES", help="of a partial one"
    )
    group.add_argument(
        "--interocular", type=float, default=0.065, metavar="M", help="metres between the eyes"
    )
    group.add_argument(
        "--eyes",
        choices=("top-bottom", "separate"),
        default="top-bottom",
        help="one picture, the left eye above, or NAME-left and NAME-right",
    )
    group.add_argument("--negative", default="", metavar="TEXT", help="what it shall not be")
    for side, other in (("width", "height"), ("height", "width")):
        group.add_argument(
            f"--picture-{side}",
            type=int,
            default=0,
            metavar="N",
            help=f"{side} of the picture that words become; the {other} follows",
        )


def _add_views(group: Any) -> None:
    group.add_argument("--views", type=int, default=0, metavar="N", help="of the ring")
    group.add_argument("--elevation", type=float, metavar="DEGREES", help="of the ring")
    group.add_argument(
        "--distance", type=float, default=0.0, metavar="D", help="of the cameras; else the model's"
    )
    group.add_argument(
        "--start", type=float, default=0.0, metavar="DEGREES", help="of the first; 0 is the front"
    )
    group.add_argument("--caps", action="store_true", help="add one from above, one from below")
    group.add_argument(
        "--poses", type=Path, metavar="FILE", help="cameras to make, a transforms.json; no ring"
    )
    group.add_argument(
        "--field", type=float, default=0.0, metavar="DEGREES", help="across, of cameras without"
    )
    group.add_argument(
        "--size", type=int, default=0, metavar="N", help="pixels of the views; else the model's"
    )
    group.add_argument(
        "--path", action="store_true", help="one view after the other, along the order of cameras"
    )
    group.add_argument("--center", default="0,0,0", metavar="X,Y,Z", help="of the thing")
    group.add_argument(
        "--extent", type=float, metavar="S", help="side of the box around the thing (2; found)"
    )
    group.add_argument("--texture-size", type=int, default=0, metavar="N", help="pixels")
    group.add_argument("--no-texture", action="store_true", help="colours at vertices only")


def _add_fields(group: Any) -> None:
    group.add_argument(
        "--effort", choices=("fast", "good", "best"), default="good", help="of fitting a field"
    )
    group.add_argument("--half", action="store_true", help="half the bytes of a .ffield: float16")
    group.add_argument(
        "--frames", type=int, default=0, metavar="N", help="how many, spread over the motion"
    )
    group.add_argument("--fps", type=float, metavar="N", help="frames a second")
    group.add_argument("--loop", action="store_true", help="the last frame leads into the first")
    group.add_argument(
        "--topology",
        choices=("frames", "one"),
        help="a mesh for each frame, or one that moves where that can be had (of a .glb)",
    )
    group.add_argument(
        "--between", type=int, metavar="N", help="how many shapes between two fields (9)"
    )
    group.add_argument("--amounts", metavar="A,A,...", help="or how much of the second each has")
    group.add_argument("--choice", default="", metavar="WORD", help="of the model's, what moves")


def _add_serve(commands: Any) -> None:
    serve = commands.add_parser("serve", help="answer Blender and other programs over HTTP")
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--port", type=int, default=0, help="0 takes a free one")
    serve.add_argument("--token", metavar="T", help="or FIELDFORGE_TOKEN; else a random one")
    serve.add_argument("--data", type=Path, metavar="DIR", help="where jobs and results are kept")
    serve.add_argument("--workers", type=int, default=1, metavar="N")
    _add_device(serve)
    serve.add_argument("--parent-pid", type=int, metavar="PID", help="end when this process ends")
    serve.add_argument("--exit-with-stdin", action="store_true", help="end when stdin is closed")


def _add_models(commands: Any) -> None:
    models = commands.add_parser("models", help="list, download, convert and verify models")
    actions = models.add_subparsers(dest="action", metavar="ACTION", parser_class=Parser)
    actions.required = True
    listed = actions.add_parser("list", help="what there is, here or to download")
    download = actions.add_parser("download", help="fetch the weights of a model")
    download.add_argument("model", metavar="ID", help="as the list names it")
    download.add_argument(
        "--accept-license", action="store_true", help="I have read its licence and accept it"
    )
    _add_dtype(download)
    download.add_argument(
        "--keep-checkpoint",
        action="store_true",
        help="keep what was converted, too (15 to 18 GB); not of models that need no conversion",
    )
    convert = actions.add_parser(
        "convert",
        help="make a model of a published checkpoint (.ckpt), or of what ViewDiff's training saved",
    )
    convert.add_argument("checkpoint", type=Path, metavar="PATH", help="the file, or the folder")
    convert.add_argument("--id", metavar="ID", help="which model it is; else told by its weights")
    convert.add_argument(
        "--args", type=Path, metavar="FILE", help="its args.json; else the one beside it, if any"
    )
    convert.add_argument(
        "--ema", action="store_true", help="the averaged weights (published results use the last)"
    )
    _add_dtype(convert)
    convert.add_argument(
        "--ignore", action="append", default=[], metavar="NAME", help="weights to leave out, with *"
    )
    convert.add_argument(
        "-o", "--output", type=Path, metavar="FOLDER", help="in place of the store"
    )
    _add_settings_of_run(convert)
    verify = actions.add_parser("verify", help="read every file and compare it with its checksum")
    verify.add_argument("model", nargs="?", metavar="ID", help="one model; else all")
    for parser in (listed, download, convert, verify):
        parser.add_argument("--json", action="store_true", help="print one JSON line instead")


def _add_settings_of_run(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "what ViewDiff's training saved", "What no file of the folder tells, as it was trained:"
    )
    group.add_argument(
        "--reference",
        choices=("absolute", "first", "front"),
        help="how cameras are told: as they are (assumed), from the first view, or turned until"
        " that is the front",
    )
    group.add_argument(
        "--own-frame",
        action=argparse.BooleanOptionalAction,
        help="whether a view is among those that it attends to (assumed)",
    )
    group.add_argument(
        "--image-size", type=int, metavar="N", help="pixels along the side of its pictures (256)"
    )
    group.add_argument(
        "--combine",
        choices=("replace", "zero", "gated", "add"),
        help="how what comes through space and what was there become one (replace; zero and gated"
        " have weights, which tell it)",
    )
    group.add_argument(
        "--as-published",
        action=argparse.BooleanOptionalAction,
        help="whether it was trained with the axes and the contraction of the published code"
        " (assumed); not, where these were mended first",
    )


def _add_dtype(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="how to store weights; else as published (float32, twice the size of the others)",
    )


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))


# ---------------------------------------------------------------------------------------- commands


def _in_environment(
    function: str, kind: str = "backend"
) -> Callable[[argparse.Namespace, list[str]], int]:
    """A command that runs in the environment of `kind`: `function` of command_line.py."""

    def command(options: argparse.Namespace, arguments: list[str]) -> int:
        _enter(arguments, kind)
        os.environ.setdefault("NUMBA_CACHE_DIR", str(environment.home() / "cache" / "numba"))
        _clean_up_when_ended()
        from . import command_line

        done: int = getattr(command_line, function)(options)
        return done

    return command


def _test(options: argparse.Namespace, arguments: list[str]) -> int:
    from . import self_test

    return self_test.run(options.ring, options.rest)


def _doctor(options: argparse.Namespace, arguments: list[str]) -> int:
    from . import doctor

    inside = os.environ.pop(_INSIDE, None)
    found = environment.status("backend")
    if not inside and found.python is not None and not environment.usable_here():
        with contextlib.suppress(FieldforgeError):  # told below, as one of the findings
            return _go_on_in(environment.ensure("backend"), arguments)
    return doctor.run(as_json=options.json)


def _models(options: argparse.Namespace, arguments: list[str]) -> int:
    _enter(arguments)
    _clean_up_when_ended()
    from . import model_commands

    return model_commands.ACTIONS[options.action](options)


def _build_extension(options: argparse.Namespace, arguments: list[str]) -> int:
    from .extension_zip import build

    print(build(options.output))
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace, list[str]], int]] = {
    "run": _in_environment("run"),
    "demo": _in_environment("demo"),
    "serve": _in_environment("serve"),
    "bench": _in_environment("bench", "test"),  # it compares with libraries that only tests need
    "test": _test,
    "doctor": _doctor,
    "models": _models,
    "build-extension": _build_extension,
}


# ----------------------------------------------------------------------------------- environment


def _enter(arguments: list[str], kind: str = "backend") -> None:
    """Return when this Python has the packages of `kind`; else go on in one that has them."""
    inside = os.environ.pop(_INSIDE, None)  # processes that this one starts are not inside
    found = environment.status(kind)
    if inside or (found.state != "external" and environment.usable_here(kind)):
        return
    with ProgressBar(always=True) as bar:
        if found.python is None:
            bar.say(f"Installing {environment.KINDS[kind].title}. This happens once.")
        python = environment.ensure(kind, bar.report)
    if python.absolute() != Path(sys.executable).absolute():
        raise SystemExit(_go_on_in(python, arguments))


def _go_on_in(python: Path, arguments: list[str]) -> int:
    """Run the same command in `python`: in place of this process where the system can do that."""
    variables = {**environment.child_environment(), _INSIDE: "1"}
    # -P: the folder from which it is called must not shadow our package.
    command = [str(python), "-P", "-m", __package__ or "backend", *arguments]
    sys.stdout.flush()
    sys.stderr.flush()
    if sys.platform == "win32":
        return subprocess.run(command, env=variables, check=False).returncode
    os.execve(command[0], command, variables)  # noqa: S606 (no shell is meant)


def _clean_up_when_ended() -> None:
    """Let `kill` and a closed terminal clean up as Ctrl-C does. Only the main thread may say so."""
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name) and threading.current_thread() is threading.main_thread():
            signal.signal(getattr(signal, name), signal.default_int_handler)


# ----------------------------------------------------------------------------------------- errors

_DISK_ERRORS = {
    errno.EACCES: "it may not be used",
    errno.EPERM: "it may not be used",
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "the disk does not take a file this large",
    errno.EROFS: "it is read-only",
    errno.EEXIST: "there is a file of that name",
    errno.ENOTDIR: "a part of its path is a file",
    errno.EISDIR: "it is a folder",
    errno.ENAMETOOLONG: "its name is too long",
}


def _in_words(error: Exception) -> FieldforgeError:
    """Any exception -> an error with cause and remedy."""
    if isinstance(error, FieldforgeError):
        return error
    if isinstance(error, MemoryError):
        return OutOfMemory(
            "There is not enough memory for this.",
            "Close other programs, or use a lower resolution or fewer points.",
        )
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        return StorageFailed(
            f"{error.filename or 'A file'} cannot be used: {_DISK_ERRORS[error.errno]}.",
            "Make room, or choose another name or folder.",
        )
    return InternalError(
        f"This should not have happened: {type(error).__name__}: {error}.",
        "Set FIELDFORGE_DEBUG=1, run it again and report what it prints.",
    )


def _tell(error: FieldforgeError, as_json: bool) -> int:
    print(" ".join(str(error).split()), file=sys.stderr)
    if as_json:
        print(json.dumps({"error": error.to_dict()}))
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
