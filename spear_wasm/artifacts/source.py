"""Where a task's artifact comes from: it is here already, or somewhere from where it is fetched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from spear_wasm.artifacts.fetcher import Fetcher
from spear_wasm.artifacts.references import Reference, digest_reference, parse_checksum, parse_reference
from spear_wasm.artifacts.single_flight import SingleFlight
from spear_wasm.artifacts.store import ArtifactStore, StoredArtifact, Upload
from spear_wasm.errors import ArtifactNotFound, ChecksumMismatch, InvalidRequest


@dataclass(frozen=True, slots=True)
class WantedArtifact:
    """What is said about an artifact that is wanted: by what it goes, what its digest is, where it can be had.

    There is no `reference` where nothing says what it goes by. An empty `digest` and `location`: not said.
    """

    reference: Reference | None
    digest: str
    location: str

    @classmethod
    def parse(cls, artifact_id: str, version: str, checksum: str, location: str) -> Self:
        """The same, from texts of which any may be empty.

        Raises:
            InvalidRequest: one is malformed, or nothing says which artifact is wanted.
        """
        digest = parse_checksum(checksum) if checksum else ""
        named = artifact_id or not location
        reference = parse_reference(artifact_id).at(version) if named else None
        if reference is None:
            if version:
                raise InvalidRequest("artifact_spec gives a version without an artifact_id")
            return cls(Reference(digest=digest) if digest else None, digest, location)
        if reference.digest and digest not in {"", reference.digest}:
            raise ChecksumMismatch(
                f"{reference} is not {digest_reference(digest)}, which checksum says it is"
            )
        return cls(reference, reference.digest or digest, location)


class ArtifactSource:
    """Finds artifacts in `store`, and fetches into it what is not there. Blocks; thread-safe."""

    def __init__(self, store: ArtifactStore, fetcher: Fetcher) -> None:
        self.store = store
        self._fetcher = fetcher
        self._flights: SingleFlight[WantedArtifact, StoredArtifact] = SingleFlight()

    def get(self, wanted: WantedArtifact) -> StoredArtifact:
        """The artifact that is wanted. Who wants the same at the same time shares one fetch.

        Raises:
            ArtifactNotFound: it is neither here nor at its location.
            ChecksumMismatch: its bytes are not what its checksum says.
            ArtifactError, InvalidRequest: it cannot be fetched, or not be stored.
        """
        try:
            return self._stored(wanted)
        except (ArtifactNotFound, ChecksumMismatch):
            if not wanted.location:
                raise
        return self._flights.do(wanted, lambda: self._fetched(wanted))

    def _stored(self, wanted: WantedArtifact) -> StoredArtifact:
        if wanted.reference is None:
            raise ArtifactNotFound("an artifact without a name or a checksum has to be fetched")
        artifact = self.store.find(wanted.reference)
        if wanted.digest not in {"", artifact.digest}:
            raise ChecksumMismatch(
                f"artifact {wanted.reference} is {digest_reference(artifact.digest)}, "
                f"not {digest_reference(wanted.digest)}"
            )
        return artifact

    def _fetched(self, wanted: WantedArtifact) -> StoredArtifact:
        named = wanted.reference or Reference()

        def begin() -> Upload:
            return self.store.begin_upload(named.name, named.version, wanted.digest, 0, {})

        return self._fetcher.fetch(wanted.location, begin)
