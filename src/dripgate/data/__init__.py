"""DATA: what people have, as files, as labelled sources, and decoded once into arrays.

Files of folders and archives (files), their labels (sources, packed), data sets by name (named),
the input to decode to (infer), the decoded data set with its cache (dataset, split). No torch, no
onnxruntime.
"""

from dripgate.data.dataset import Dataset, Skipped, load
from dripgate.data.files import File, LabelledFile, iter_files
from dripgate.data.infer import infer_input
from dripgate.data.sources import Source, open_source
from dripgate.data.split import Split

__all__ = [
    "Dataset", "File", "LabelledFile", "Skipped", "Source", "Split",
    "infer_input", "iter_files", "load", "open_source",
]  # fmt: skip
