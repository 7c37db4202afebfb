"""spearlet.ArtifactService."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import grpc

from spear_wasm.api import artifact_pb2 as pb
from spear_wasm.api import artifact_pb2_grpc
from spear_wasm.errors import ArtifactNotFound, InvalidRequest, UnlinkableArtifact, UploadStalled
from spear_wasm.rpc.convert import artifact_info
from spear_wasm.rpc.status import reporting_errors
from spear_wasm.rpc.waiting import in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from spear_wasm.artifacts.store import StoredArtifact, Upload
    from spear_wasm.host import Host

Context: TypeAlias = "grpc.aio.ServicerContext[object, object]"

ANSWER_BYTES = 1 << 20
"""What an artifact with many functions or long names may take of an answer."""
PAGE_BYTES = 900_000
LISTED_BYTES = 16 << 10
"""What one artifact may take of a page; GetArtifact tells the rest."""
LOOKUP_THREADS = 4
BREAK_OFF_SECONDS = 0.1
"""gRPC may tell of a stream that breaks off as of one that ends, as it did in 110 of 600 measured cases of version
1.85: that its caller is gone is told a little later, and cancels what waits."""


class ArtifactService(artifact_pb2_grpc.ArtifactServiceServicer):
    """Uploads, and what there is to know about artifacts."""

    def __init__(self, host: Host) -> None:
        self._host = host
        # An upload holds its thread while it compiles, so uploads have threads of their own.
        self._upload_threads = ThreadPoolExecutor(
            host.config.artifacts.max_uploads, thread_name_prefix="spear-upload"
        )
        self._lookup_threads = ThreadPoolExecutor(LOOKUP_THREADS, thread_name_prefix="spear-lookup")

    def close(self) -> None:
        """Wait for what the threads still do."""
        self._upload_threads.shutdown(cancel_futures=True)
        self._lookup_threads.shutdown(cancel_futures=True)

    @reporting_errors
    async def UploadArtifact(
        self, request_iterator: AsyncIterator[pb.UploadArtifactRequest], context: Context
    ) -> pb.UploadArtifactResponse:
        """Store a module; nothing of it stays unless all of it is right."""
        parts = aiter(request_iterator)
        header = await self._next_part(parts)
        if header is None or header.WhichOneof("part") != "header":
            raise InvalidRequest("an upload begins with its header")
        upload = await in_thread(self._lookup_threads, lambda: self._begin(header.header))
        try:
            while (part := await self._next_part(parts)) is not None:
                if part.WhichOneof("part") != "chunk":
                    raise InvalidRequest("after the header, an upload holds nothing but chunks")
                await in_thread(self._upload_threads, partial(upload.write, part.chunk))
            if not (header.header.size_bytes or header.header.checksum):  # which tell what is missing
                await asyncio.sleep(BREAK_OFF_SECONDS)
            artifact, created = await in_thread(self._upload_threads, upload.finish)
        finally:
            self._close_behind(upload)
        return pb.UploadArtifactResponse(artifact=self._info(artifact, ANSWER_BYTES), created=created)

    def _close_behind(self, upload: Upload) -> None:
        """Close an upload after whatever the threads still do for it, if its RPC was cancelled."""
        try:
            self._upload_threads.submit(upload.close)
        except RuntimeError:  # the threads have ended, and do nothing any more
            upload.close()

    def _begin(self, header: pb.UploadArtifactHeader) -> Upload:
        return self._host.artifacts.begin_upload(
            header.name, header.version, header.checksum, header.size_bytes, dict(header.labels)
        )

    async def _next_part(
        self, parts: AsyncIterator[pb.UploadArtifactRequest]
    ) -> pb.UploadArtifactRequest | None:
        patience = self._host.config.artifacts.upload_idle_timeout
        try:
            async with asyncio.timeout(patience):
                return await anext(parts, None)
        except TimeoutError:
            raise UploadStalled(f"the upload sent nothing for {patience:g} s") from None

    @reporting_errors
    async def GetArtifact(self, request: pb.GetArtifactRequest, context: Context) -> pb.ArtifactInfo:
        """One artifact."""
        artifact = await in_thread(
            self._lookup_threads, lambda: self._host.artifacts.resolve(request.reference)
        )
        return self._info(artifact, ANSWER_BYTES)

    @reporting_errors
    async def ListArtifacts(
        self, request: pb.ListArtifactsRequest, context: Context
    ) -> pb.ListArtifactsResponse:
        """Artifacts in the order of their creation."""
        found, next_token = await in_thread(
            self._lookup_threads,
            lambda: self._host.artifacts.list(request.prefix, request.page_size, request.page_token),
        )
        most = max(512, min(LISTED_BYTES, PAGE_BYTES // max(1, len(found))))
        return pb.ListArtifactsResponse(
            artifacts=[self._info(artifact, most) for artifact in found], next_page_token=next_token
        )

    @reporting_errors
    async def DeleteArtifact(
        self, request: pb.DeleteArtifactRequest, context: Context
    ) -> pb.DeleteArtifactResponse:
        """Remove a version, and the bytes when nothing names them any more."""
        await in_thread(self._lookup_threads, lambda: self._delete(request.reference, force=request.force))
        return pb.DeleteArtifactResponse(deleted=True)

    def _delete(self, reference: str, *, force: bool) -> None:
        artifacts, registration = self._host.artifacts, self._host.registration
        digest = artifacts.resolve(reference).digest
        registration.catch_up()
        artifacts.delete(reference, force=force, in_use=registration.is_referenced)
        try:
            artifacts.get(digest)
        except ArtifactNotFound:
            registration.artifact_removed(digest)

    def _info(self, artifact: StoredArtifact, most_bytes: int) -> pb.ArtifactInfo:
        try:
            runtime = self._host.runtimes.recognise(artifact.module)
        except UnlinkableArtifact:  # its runtime was there when it was stored, and may be again
            return artifact_info(artifact, "", (), most_bytes=most_bytes)
        return artifact_info(
            artifact, runtime.name, runtime.signatures(artifact.module), most_bytes=most_bytes
        )
