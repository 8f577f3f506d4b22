"""Label Studio: tasks with predictions, the payloads beside them, and the labelling interface."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import msgspec

from dripgate.errors import UnreadableError
from dripgate.export.facts import MEDIA, all_classes, classes_of, facts, file_name
from dripgate.export.folder import Exported, intact, new_folder
from dripgate.media import AudioHeader, probe
from dripgate.progress import Progress
from dripgate.store import BROKEN, Store
from dripgate.store.records import StoredSample

#: Tasks in one file: what Label Studio takes in one upload without complaint.
_TASKS = 1000
#: Names that tie the tasks to the interface. The label comes back in the column ``label``.
_FROM, _TO = "label", "sample"


def labelstudio(store: Store, out: Path, *, told: Progress = lambda _: None) -> Exported:
    """tasks-00000.json and on, config.xml, data/. Arguments and errors: as ``imagefolder``.

    Serve the payloads with LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and
    LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT set to the folder that holds ``out``; a storage of local
    files must be added for ``out``/data, or Label Studio answers 404.
    """
    classes, known, damaged = classes_of(store), all_classes(store), list[str]()
    model, written, tasks = store.meta.get("gate_id", ""), 0, list[dict[str, Any]]()
    kind = "image"
    with new_folder(out) as part:
        (part / MEDIA).mkdir()
        for stored in intact(store, damaged, told):
            written += 1
            kind = _kind(stored)
            (part / MEDIA / file_name(stored)).write_bytes(stored.payload)
            address = f"/data/local-files/?d={out.name}/{MEDIA}/{file_name(stored)}"
            tasks.append(_task(stored, classes, kind, address, model))
            if len(tasks) == _TASKS:
                _write(part, written, tasks)
        if tasks or not written:
            _write(part, written, tasks)
        (part / "config.xml").write_bytes(config(kind, [*known, BROKEN]))
    return Exported(samples=written, damaged=tuple(damaged))


def config(kind: str, classes: list[str]) -> bytes:
    """The labelling interface: one choice of these classes for an image, a sound or a text."""
    view = ET.Element("View")
    tag = {"image": "Image", "audio": "Audio"}.get(kind, "Text")
    ET.SubElement(view, tag, name=_TO, value=f"${kind}")
    choices = ET.SubElement(view, "Choices", name=_FROM, toName=_TO, choice="single")
    for name in classes:
        ET.SubElement(choices, "Choice", value=name)
    return ET.tostring(view)


def _write(part: Path, written: int, tasks: list[dict[str, Any]]) -> None:
    name = f"tasks-{max(written - 1, 0) // _TASKS:05}.json"
    (part / name).write_bytes(msgspec.json.format(msgspec.json.encode(tasks), indent=1))
    tasks.clear()


def _kind(stored: StoredSample) -> str:
    try:
        return "audio" if isinstance(probe(stored.payload), AudioHeader) else "image"
    except UnreadableError:
        return "image"


def _task(
    stored: StoredSample, classes: tuple[str, ...], kind: str, address: str, model: str
) -> dict[str, Any]:
    """``dripgate_id``: Label Studio puts its own number into ``id`` when it exports."""
    found = facts(stored, classes)
    data = {kind: address, "dripgate_id": found.pop("id")} | found
    task: dict[str, Any] = {"data": data}
    if found["predicted"] is not None:
        guess = {"model_version": model, "score": found["score"]}
        task["predictions"] = [guess | {"result": [_choice(found["predicted"])]}]
    if stored.label is not None:
        task["annotations"] = [{"result": [_choice(stored.label)]}]
    return task


def _choice(label: str) -> dict[str, Any]:
    return {"from_name": _FROM, "to_name": _TO, "type": "choices", "value": {"choices": [label]}}
