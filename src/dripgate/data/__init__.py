"""DATA: what people have, as files, as labelled sources, and decoded once into arrays.

Files of folders and archives (files, archives, names), their labels (layout, sources, packed),
data sets by name (named), the input to decode to (infer), the decoded data set (dataset, split)
with its cache, and the summary of what was found (found, summary, unused). No torch, no
onnxruntime.
"""

from dripgate.data.dataset import Dataset, load
from dripgate.data.files import iter_files
from dripgate.data.found import ClassFound, Finding, Found
from dripgate.data.infer import Inferred, infer, infer_input
from dripgate.data.layout import READINGS, Reading, class_of, label_of
from dripgate.data.names import File, LabelledFile
from dripgate.data.sources import Source, open_source, shadowed
from dripgate.data.split import Split
from dripgate.data.table import Skipped
from dripgate.data.unused import Pile, Unused

__all__ = [
    "READINGS", "ClassFound", "Dataset", "File", "Finding", "Found", "Inferred", "LabelledFile",
    "Pile", "Reading", "Skipped", "Source", "Split", "Unused", "class_of", "infer", "infer_input",
    "iter_files", "label_of", "load", "open_source", "shadowed",
]  # fmt: skip
