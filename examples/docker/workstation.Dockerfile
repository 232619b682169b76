# A workstation or CI job that exports, quantizes, verifies and measures on the CPU.
#
#   docker build -f examples/docker/workstation.Dockerfile -t resnet-export .
#   docker run --rm -v "$PWD:/data" resnet-export resnet18 --weights /data/model.pth --int8 --calib /data/photos -o /data/out
#
# EXTRAS adds to what is installed; "export,timm,rtx" builds engines of TensorRT-RTX without a GPU.
FROM python:3.11-slim-bookworm

ARG EXTRAS=export,openvino
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1

WORKDIR /opt/resnet-export
COPY pyproject.toml README.md LICENSE ./
COPY runtimes runtimes
COPY exporter exporter
COPY calibration calibration
COPY resnet_export resnet_export
# This project itself, whose versions pyproject.toml bounds.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir ".[${EXTRAS}]" \
    && useradd --create-home --uid 1000 user

USER 1000
WORKDIR /data
ENTRYPOINT ["resnet-export"]
CMD ["--help"]
