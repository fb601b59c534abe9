"""Files with the weights of dense layers, looked at before any is read. No torch."""

from __future__ import annotations

from ..errors import ModelError
from ..weights.fit import compare
from ..weights.folder import SINGLE, FolderSource
from ..weights.renamed import RenamedSource
from ..weights.source import ModelSource
from .recipe import DenseSpec


def check_dense(spec: DenseSpec, source: ModelSource) -> None:
    """Raises ModelError if the weights of a module are not there or do not fit what its config.json says."""
    found = stored(spec, source)
    wanted: dict[str, tuple[int, ...]] = {"linear.weight": (spec.out_features, spec.in_features)}
    if spec.bias:
        wanted["linear.bias"] = (spec.out_features,)
    if spec.residual and spec.in_features != spec.out_features:
        wanted["residual.weight"] = (spec.out_features, spec.in_features)
    compare(found.name, wanted, found.tensors())


def stored(spec: DenseSpec, source: ModelSource) -> ModelSource:
    """The file with the weights of a module, in a form that is read. Raises ModelError if there is none."""
    if not spec.folder:
        ours = source.stored
        names = {f"{spec.prefix}.{kind}": (f"linear.{kind}",) for kind in ("weight", "bias")}
        return RenamedSource(ours.name, ours.path, ours, names)
    if not isinstance(source.stored, FolderSource):
        raise ModelError(f"{source.name} is one file, and the weights of its module {spec.folder} are not in it; use the model's folder")
    folder = source.path / spec.folder
    if not (folder / SINGLE).exists():
        pickles = sorted(path.name for path in folder.glob("*.bin"))
        what = (
            f"only {pickles[0]}, and pickle files can run code when read, so they are refused; convert it once to safetensors "
            "(sentence-transformers: SentenceTransformer(folder).save(new_folder))"
            if pickles
            else "fetch the model again"
        )
        raise ModelError(f"{folder} has no {SINGLE}: {what}")
    return FolderSource(f"{source.name}/{spec.folder}", folder)
