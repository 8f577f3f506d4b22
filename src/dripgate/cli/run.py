"""dripgate run: the Application Phase."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec
from click.core import ParameterSource

from dripgate.cli import describe
from dripgate.cli.broker import (
    check_all_sent,
    drain,
    security,
    security_options,
    sending,
    sending_options,
)  # fmt: skip
from dripgate.cli.common import (
    SECONDS,
    SECONDS_ABOVE_0,
    SEEDS,
    Finite,
    Share,
    Stop,
    a_file,
    is_loopback,
    json_option,
    note,
    progress,
    show,
    shows_progress,
)
from dripgate.cli.learning import asked, learning, learning_options
from dripgate.cli.seen import Watching
from dripgate.data.files import iter_names
from dripgate.errors import UserError, require
from dripgate.gate import Gate
from dripgate.policy import Rules, parse_allowance
from dripgate.release.trial import Trials, count_death
from dripgate.store import Store, parse_duration, parse_size
from dripgate.stream.broker import (
    Address,
    Security,
    is_address,
    name_of,
    parse_address,
    read_login,
)  # fmt: skip
from dripgate.stream.force import InForce
from dripgate.stream.loop import BATCH, Summary, run
from dripgate.stream.metrics import Listen, Page, parse_listen
from dripgate.stream.reading import TIMES
from dripgate.stream.service import Service
from dripgate.stream.sources import (
    How,
    check_source,
    live,
    open_source,
    shown,
    unused_options,
)  # fmt: skip
from dripgate.types import Sample, Verdict


@click.command("run")
@click.argument("gate", type=click.Path(path_type=Path))
@click.argument("source", shell_complete=a_file)
@click.option("--store", required=True, type=click.Path(path_type=Path), help="Store to keep in.")
@click.option("--limit", help="Most the store may take on disk, such as 500MB; remembered.")
@click.option("--max-age", help="Delete samples that are older, such as 90d or 12h.")
@click.option("--follow", is_flag=True, help="Go on as files arrive, until Ctrl-C or SIGTERM.")
@click.option(
    "--processed",
    default="keep",
    show_default=True,
    metavar="keep|remove|move:DIR",
    help="What becomes of a file once the verdict about it is durable.",
)
@click.option(
    "--unreadable", default="keep", show_default=True, metavar="keep|move:DIR",
    help="What becomes of a file that cannot be decoded; it is never removed.",
)  # fmt: skip
@click.option("--again", is_flag=True, help="Decide also about what this gate decided before.")
@click.option(
    "--settle", default=2.0, show_default=True, type=SECONDS,
    help="Seconds that a file of a followed folder must not have changed for before it is read.",
)  # fmt: skip
@click.option(
    "--time", "times", type=click.Choice(TIMES), default="read", show_default=True,
    help="A sample's time: when it was read, the file's own time, or what its EXIF data say.",
)  # fmt: skip
@click.option(
    "--batch", default=BATCH, show_default=True, type=click.IntRange(1),
    help="Most samples decided together.",
)  # fmt: skip
@click.option(
    "--latency", default=0.0, type=SECONDS,
    help="Seconds that a sample may wait for others to share its commit.",
)  # fmt: skip
@click.option("--keep", type=Share(), help="Share to keep, such as 0.05; else the gate's band.")
@click.option("--budget", multiple=True, help="200/h, 500MB/week, …; may be given several times.")
@click.option("--audit", type=Share(), help="Share kept whatever the score, such as 0.01.")
@click.option(
    "--duplicates",
    type=Share(),
    help="Keep a scene once; share of distinct scenes that may be lost by it. 0 is off.",
)
@click.option(
    "--seed", default=0, show_default=True, type=SEEDS, help="Of the audit and all other chance."
)
@click.option("--rate", type=click.IntRange(1), help="Of sound, in Hz; the gate's if not given.")
@click.option("--channels", type=click.IntRange(1), help="Of sound, averaged; 1 if not given.")
@click.option(
    "--overlap", default=0.5, show_default=True, type=Finite(0, 0.95),
    help="Of the windows of mic: and pcm:-.",
)  # fmt: skip
@click.option(
    "--every", default=0.0, type=SECONDS,
    help="Seconds between two frames of a camera; 0 is all.",
)  # fmt: skip
@click.option(
    "--source-credentials", type=click.Path(path_type=Path, dir_okay=False),
    help="Of a network camera: TOML file with username and password.",
)  # fmt: skip
@click.option("--queue", default="64MB", show_default=True, help="Memory for what waits.")
@click.option(
    "--when-full",
    type=click.Choice(["drop", "wait"]),
    help="Lose the oldest that wait, counted, or make the source wait.",
)
@click.option(
    "--embeddings", type=click.Choice(["on", "off"]), default="on", show_default=True,
    help="Whether the store keeps each sample's embedding: two bytes a number.",
)  # fmt: skip
@learning_options
@click.option("--uplink", help="Send what is kept to mqtt://host/topic or mqtts://host/topic.")
@sending_options
@security_options
@click.option("--metrics", type=click.Path(path_type=Path), help="File for Prometheus, NAME.prom.")
@click.option(
    "--metrics-listen", metavar="[ADDRESS:]PORT",
    help="Answer Prometheus over HTTP there; a port alone is for this machine.",
)  # fmt: skip
@click.option(
    "--interval", type=SECONDS_ABOVE_0,
    help="Seconds between two reports; 60 if it goes on.",
)  # fmt: skip
@json_option
def command(
    gate: Path, source: str, store: Path, limit: str | None, batch: int, json_path: Path | None,
    **options: Any,
) -> None:  # fmt: skip
    """Decide about every sample of SOURCE and store what GATE keeps.

    SOURCE is a folder or an archive; mic: or mic:NAME (a microphone), pcm:- (16-bit PCM on
    standard input); camera:0, camera:film.mp4, picamera:0 (a Raspberry Pi's own), rtsp://host/path
    or http://host/path (network cameras); or mqtt://host/topic. A run that was interrupted goes on
    where it stopped, and a file that was decided by this gate and these options is not decided
    again, unless --again.

    With --keep, --budget, --audit or --duplicates a policy decides on top of the gate: shares and
    budgets are kept to, a scene is kept once, no class dries up, and a few samples are kept at
    random so that what is dropped stays measurable; docs/policy.md explains.
    """
    rules, secure = _rules(options), security(options)
    age = options["max_age"] and parse_duration(options["max_age"])
    if age == 0:
        raise UserError(f"--max-age {options['max_age']} would delete whatever is kept; to empty "
                        "a store: dripgate purge STORE --everything")  # fmt: skip
    check_source(source)
    wanted = asked(options)
    listen = options["metrics_listen"] and parse_listen(options["metrics_listen"])
    address = options["uplink"] and parse_address(options["uplink"])
    if address:
        require("--uplink", "mqtt", "paho")
        if options["send_embeddings"] and options["embeddings"] == "off":
            raise UserError("--send-embeddings sends what --embeddings off does not keep; give one")
    _say_unused(source, options, rules)
    login = read_login(options["source_credentials"], {})
    opened, stop = Gate.load(gate, threads=0), Stop()
    lasting = options["follow"] or bool(live(source))
    watching = Watching(opened.info.classes, opened.info.input)
    with (
        _page(listen) as page,
        Store(store, limit) as kept,
        _uplink(kept, address, secure, options) as uplink,
    ):
        count_death(kept)
        force = InForce(kept, opened, threads=0, told=note)
        trials = Trials(kept, force, told=note)
        service = Service(
            kept,
            more=trials.figures,
            uplink=uplink,
            metrics=options["metrics"],
            page=page,
            interval=options["interval"] or (60.0 if lasting or options["metrics"] else None),
            max_age=age,
            by_reading=options["times"] == "read",
            log=note,
        )
        how = _how(options, secure, uplink.link.wait if uplink else stop.wait)._replace(
            own=tuple(path for path in (gate, options["metrics"], json_path, force.folder) if path),
            told=note,
            login=login,
        )
        with (
            closing(open_source(source, opened.info.input, kept, stop, how)) as feed,
            learning(kept, force, wanted, secure, options, lambda: trials.busy) as learns,
            _turn(service, source, lasting) as turn,
        ):

            def told(pairs: list[tuple[Sample, Verdict]]) -> None:
                service.verdicts(pairs)
                watching(pairs)

            summary = run(
                force,
                feed,
                kept,
                batch=batch,
                latency=options["latency"],
                rules=rules,
                embeddings=options["embeddings"] == "on",
                observers=[trials, *learns.observers],
                on_verdicts=told,
                on_turn=turn,
            )
        if uplink:
            drain(uplink, stop, options["give_up"], lambda: service.turn(summary))
        if lasting or options["metrics"]:
            service.report(summary)
        on_disk, left = kept.disk_bytes, kept.backlog
        sent = uplink.state if uplink else None
    if not (lasting or summary.seen or summary.known):
        note(f"  note: {shown(source)}: no file in it to decide about; --follow waits for files")
    seen = watching.after(None if lasting else Path(source).expanduser())
    lines = describe.run(summary, store, on_disk) + seen.lines()
    lines += describe.uplink(sent, left) if sent else []
    show(
        lines + (describe.labels(learns.labels) if learns.labels else []),
        {"gate": str(gate), "source": shown(source), "store": str(store), "store_bytes": on_disk,
         "summary": summary, "found": seen, "uplink": sent,
         "labels": learns.labels},
        json_path,
    )  # fmt: skip
    if sent:
        check_all_sent(store, left, sent, stop)


def _rules(options: dict[str, Any]) -> Rules | None:
    """What was asked of a policy; None where nothing was."""
    asked = {name: options[name] for name in ("keep", "audit", "duplicates")}
    given = {name: value for name, value in asked.items() if value is not None}
    if not given and not options["budget"]:
        return None
    budgets = tuple(parse_allowance(text) for text in options["budget"])
    rules = Rules(budgets=budgets, seed=options["seed"])
    return msgspec.structs.replace(rules, **given)


_OF_UPLINK = ("metadata_only", "send_embeddings", "bandwidth", "confirm", "patience", "give_up")
_OF_BROKER = ("credentials", "ca", "cert", "key", "device")


def _say_unused(source: str, options: dict[str, Any], rules: Rules | None) -> None:
    """Name the options that were given and mean nothing here."""
    context = click.get_current_context()
    flags = {parameter.name: parameter.opts[0] for parameter in context.command.params}
    given = {name for name in options
             if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}  # fmt: skip
    unused = unused_options(source, options["follow"], given)
    if not options["uplink"]:
        unused += [name for name in _OF_UPLINK if name in given]
        if not is_address(source) and not is_address(options["labels"] or ""):
            unused += [name for name in _OF_BROKER if name in given]
    if rules is None and "seed" in given:
        unused.append("seed")
    if unused:
        named = ", ".join(flags[name] for name in unused)
        note(f"  note: not used here: {named}; {shown(source)} or the other options leave no use "
             "for it")  # fmt: skip


def _how(options: dict[str, Any], secure: Security, wait: Callable[[float], object]) -> How:
    """How the source is to be read."""
    full = options["when_full"]
    return How(
        follow=options["follow"],
        processed=options["processed"],
        unreadable=options["unreadable"],
        times=options["times"],
        again=options["again"],
        settle=options["settle"],
        rate=options["rate"],
        channels=options["channels"],
        overlap=options["overlap"],
        every=options["every"],
        room=parse_size(options["queue"]),
        drop_oldest=None if full is None else full == "drop",
        security=secure,
        wait=wait,
    )


@contextmanager
def _uplink(
    kept: Store, address: Address | None, secure: Security, options: dict[str, Any]
) -> Iterator[Any]:
    """The uplink that was asked for, or None. A broker that is not there yet is waited for."""
    if address is None:
        yield None
        return
    from dripgate.stream.uplink import Uplink

    name, how = name_of(kept, options["device"]), sending(options)
    with closing(Uplink(kept, address, secure, name, how)) as uplink:
        yield uplink


@contextmanager
def _page(listen: Listen | None) -> Iterator[Page | None]:
    """The page of metrics that was asked for, or None."""
    if listen is None:
        yield None
        return
    with closing(Page(listen)) as page:
        note(f"metrics: {page.address}")
        if not is_loopback(listen.host):
            note(f"warning: {listen.host} is beyond this machine: whoever reaches it sees them")
        yield page


@contextmanager
def _turn(service: Service, source: str, lasting: bool) -> Iterator[Callable[[Summary], None]]:
    """The service; and a bar where there will be an end, that counts files or more than those."""
    if lasting:
        yield service.turn
        return
    path = Path(source).expanduser()
    length = sum(1 for _ in iter_names(path)) if shows_progress() else None
    with progress(length, f"deciding {source}") as told:

        def turn(summary: Summary) -> None:
            service.turn(summary)
            told(summary.seen + summary.known)

        yield turn
