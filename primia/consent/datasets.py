"""A site's shards as Syft datasets: one a split, each with a private half and a public mock half of one file.

The Syft box is only ever addressed by names checked here: Syft itself would write outside for a name with ``..``, and takes the
paths of a dataset's files from a text file in it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from syft_datasets.dataset_manager import SHARE_WITH_ANY, SyftDatasetManager
from syft_datasets.dataset_ref import DatasetRef
from syft_datasets.models import Dataset, PrivateDatasetConfig
from syft_perms.syftperm_modifier import PERMISSION_FILE_NAME

from primia.data.catalogue import SPLITS
from primia.errors import ConsentError
from primia.untrusted.files import printable
from primia.untrusted.yaml_files import check_yaml

PROTOCOL = "1"
"""Syft's layout of datasets on the disk."""

_DESCRIPTION = "dataset.yaml"
"""A dataset's public description, in its mock half."""

_SYNTHETIC = "synthetic"

_NAME = re.compile(r"[a-z0-9-]+")
_SITE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_IDENTITY = re.compile(r"[a-z0-9][a-z0-9._-]*@[a-z0-9][a-z0-9.-]*")


def site_name(name: str) -> str:
    """``name``, if it can name a site box and its files; else :class:`ConsentError`."""
    if not _SITE.fullmatch(name):
        raise ConsentError(
            f"{name!r} cannot name a site box: letters, digits, '.', '_' and '-' only, beginning with a letter or digit; "
            "rename the site's folder and pack it again"
        )
    return name


def identity_name(name: str) -> str:
    """``name``, if it is one person's or federation's and no pattern for many; else :class:`ConsentError`."""
    if not _IDENTITY.fullmatch(name):
        raise ConsentError(
            f"{name!r} names no single federation: give name@domain in small letters, digits, '.', '_' and '-', without wildcards, "
            "such as study@hospital.example"
        )
    return name


def dataset_name(name: str) -> str:
    """``name``, if it is that of a split; else :class:`ConsentError`."""
    if not _NAME.fullmatch(name) or name not in SPLITS:
        raise ConsentError(f"{name!r} is no dataset of a site box; it holds {', '.join(SPLITS)}")
    return name


class BoxDatasets:
    """The Syft box in ``folder`` that ``owner`` keeps for ``site``, with the datasets ``names``."""

    def __init__(self, folder: Path, owner: str, site: str, names: Sequence[str]) -> None:
        self.folder = folder.resolve()
        """As Syft names it."""
        self.owner = identity_name(owner)
        self.site = site_name(site)
        self.names = tuple(map(dataset_name, names))
        self._manager = SyftDatasetManager(self.folder, self.owner)

    @property
    def datasite(self) -> Path:
        """The owner's part of the Syft box, which permissions are relative to."""
        return self.folder / self.owner

    def create(self, name: str, *, mock: Path, private: Path, synthetic: bool) -> None:
        """Copy two shards, both named after the site, into a new dataset ``name``; the mock half is for anybody.

        ``synthetic`` tells whether the private half's images are, as that of the demonstration set.

        Raises:
            ConsentError: not the name of a split, or a half is a symbolic link or no file of that name.
        """
        for half in (mock, private):
            if half.is_symlink() or not half.is_file() or half.name != f"{self.site}.arrow":
                raise ConsentError(f"{half}: not one file {self.site}.arrow, which each half of a dataset must be")
        dataset = self._manager.create(
            name=dataset_name(name),
            mock_path=mock,
            private_path=private,
            summary=f"{name} images of {self.site}",
            tags=[_SYNTHETIC] if synthetic else [],
            users=SHARE_WITH_ANY,
            protocol_versions=[PROTOCOL],
        )
        # Without the folder's present path, as Syft sends it to peers: the box may be moved.
        self._manager.storage.write_private_config(self._ref(name), PrivateDatasetConfig(uid=dataset.uid, data_dir=Path()))

    def private_folder(self, name: str) -> Path:
        """Folder of the private half, whose permission file is the owner's grant."""
        folder: Path = self._manager.storage.private_dataset_dir(self._ref(name))
        return folder

    def mock_folder(self, name: str) -> Path:
        """Folder of the mock half."""
        folder: Path = self._manager.storage.public_dataset_dir(self._ref(name))
        return folder

    def shard(self, name: str, *, mock: bool) -> Path:
        """Path of one half's shard; :class:`ConsentError` if it is not there."""
        path = (self.mock_folder(name) if mock else self.private_folder(name)) / f"{self.site}.arrow"
        if not path.is_file():
            raise ConsentError(f"{path}: missing from the site box; restore it from a backup, or make the box again")
        return path

    def uid(self, name: str) -> str:
        """A random number that Syft gave the dataset when it was made: it tells datasets apart and says nothing of what is in them."""
        return str(self._dataset(name).uid)

    def synthetic(self, name: str) -> bool:
        """Whether the private half's images are synthetic, by the public description."""
        return _SYNTHETIC in self._dataset(name).tags

    def _dataset(self, name: str) -> Dataset:
        try:
            check_yaml(self.mock_folder(name) / _DESCRIPTION)
            return self._manager.storage.read_dataset(self._ref(name))
        except Exception as error:  # whatever Syft's YAML and models raise
            raise ConsentError(
                f"{self.mock_folder(name)}: Syft cannot read this dataset ({printable(error)}); make the box again"
            ) from None

    def permission_files(self) -> set[Path]:
        """Where permission files belong: in each half of each dataset and nowhere else."""
        folders = [folder for name in self.names for folder in (self.mock_folder(name), self.private_folder(name))]
        return {folder / PERMISSION_FILE_NAME for folder in folders}

    def _ref(self, name: str) -> DatasetRef:
        return DatasetRef(self.owner, dataset_name(name), PROTOCOL)
