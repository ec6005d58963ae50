"""The storage service's RPCs: unpack, call, pack."""

from services.storage.servicers.algorithms import AlgorithmServicer
from services.storage.servicers.blobs import BlobServicer
from services.storage.servicers.datasets import DatasetServicer
from services.storage.servicers.models import ModelServicer
from services.storage.servicers.projects import ProjectServicer

__all__ = ["AlgorithmServicer", "BlobServicer", "DatasetServicer", "ModelServicer", "ProjectServicer"]
