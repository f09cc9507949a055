"""Stored tables as Arrow datasets, for engines that choose columns and filter by themselves."""

from __future__ import annotations

import io
from collections import Counter
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs
import pyarrow.parquet as pq

from boucle.core.errors import BoucleError
from boucle.ledger import tables
from boucle.ports.blobs import Blobs


def dataset(blobs: Blobs, manifest_digest: str) -> Any:
    """A stored table as a `pyarrow.dataset.Dataset` over its blocks: nothing but their footers is read before a scan, which
    checks every page it reads. float16 is read as float32, repetitive text as dictionaries.

    Raises `NotFound` when the manifest is not there.
    """
    manifest = tables.load_manifest(blobs, manifest_digest)
    digests = [blob for entry in manifest["blocks"] for blob in tables.stored_in(entry)]
    arrow = tables.arrow_of(manifest)
    repeated = _dictionaries(blobs, digests[0]) if digests else set()
    schema = pa.schema([pa.field(f.name, _scanned(f.type, f.name in repeated)) for f in arrow])
    if not digests:
        return ds.dataset(schema.empty_table())
    checked = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    form = ds.ParquetFileFormat(dictionary_columns=repeated, default_fragment_scan_options=checked)
    if "paths" in blobs.capabilities:
        places = [str(blobs.path(d)) for d in digests]
        return ds.dataset(places, schema=schema, format=form, filesystem=pyarrow.fs.LocalFileSystem())
    return ds.dataset(digests, schema=schema, format=form, filesystem=pyarrow.fs.PyFileSystem(_BlobFiles(blobs)))


def _scanned(kind: pa.DataType, repeated: bool) -> pa.DataType:
    if pa.types.is_float16(kind):
        return pa.float32()
    return pa.dictionary(pa.int32(), kind) if repeated else kind


def _dictionaries(blobs: Blobs, digest: str) -> set[str]:
    """The text columns that a block holds as dictionaries, which are much faster to group and compare."""
    with blobs.open(digest) as file:
        footer = pq.ParquetFile(pa.PythonFile(file, mode="r")).metadata
    if footer.num_row_groups == 0:
        return set()
    group = footer.row_group(0)
    chunks = [group.column(i) for i in range(group.num_columns)]
    names = set(footer.schema.to_arrow_schema().names)
    text = {f.name for f in footer.schema.to_arrow_schema() if pa.types.is_string(f.type)}
    times = Counter(c.path_in_schema for c in chunks)  # the part b of a struct a is written as a column "a.b" is
    once = {name for name in text & names if times[name] == 1}
    return {c.path_in_schema for c in chunks if c.has_dictionary_page and c.path_in_schema in once}


class _Closing(io.RawIOBase):
    """A reader that closes what it reads when Arrow drops it, which Arrow does without a word."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        super().close()


class _BlobFiles(pyarrow.fs.FileSystemHandler):  # type: ignore[misc]  # Arrow takes nothing else
    """Blobs that have no path, as the files of a file system: named by digest, read-only."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BlobFiles) and other._blobs is self._blobs

    def __hash__(self) -> int:
        return id(self._blobs)

    def get_type_name(self) -> str:
        return "boucle"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[Any]:
        kind = pyarrow.fs.FileType
        infos = []
        for path in paths:
            try:
                infos.append(pyarrow.fs.FileInfo(path, kind.File, size=self._blobs.size(path)))
            except BoucleError:
                infos.append(pyarrow.fs.FileInfo(path, kind.NotFound))
        return infos

    def open_input_file(self, path: str) -> Any:
        return pa.PythonFile(_Closing(self._blobs.open(path)), mode="r")

    def open_input_stream(self, path: str) -> Any:
        return self.open_input_file(path)

    def _refused(self, *_: Any, **__: Any) -> Any:
        raise OSError("blobs are read-only here")

    get_file_info_selector = create_dir = delete_dir = delete_dir_contents = delete_root_dir_contents = _refused
    delete_file = move = copy_file = open_output_stream = open_append_stream = _refused
