# A Jetson: bundles are verified, engines built and run there, with JetPack's own TensorRT; never torch.
# Not built or run by us; look up the tags of BASE for your JetPack, they were not checked. On the device, with NVIDIA's container runtime:
#
#   JetPack 6:  docker build -f examples/docker/jetson.Dockerfile -t resnet-export-jetson .
#   JetPack 7:  ... --build-arg BASE=nvcr.io/nvidia/tensorrt:25.08-py3-igpu --build-arg CUDA_BINDINGS='cuda-bindings>=13,<14'
#   docker run --rm --runtime nvidia -v "$PWD:/data" resnet-export-jetson build /data/resnet50-int8 --int8 --fp16
#
# BASE brings TensorRT and its Python module: what the image has must be the device's version.
ARG BASE=nvcr.io/nvidia/l4t-tensorrt:r10.3.0-devel
# hadolint ignore=DL3006
FROM ${BASE}

ARG CUDA_BINDINGS="cuda-bindings>=12,<13"
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 PATH=/opt/venv/bin:$PATH

# The versions are the release's own: nothing newer is in its archive.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/resnet-export
COPY pyproject.toml README.md LICENSE ./
COPY runtimes runtimes
COPY exporter exporter
COPY calibration calibration
COPY resnet_export resnet_export
# The environment sees the system's packages: TensorRT comes from there. This project's versions are pyproject.toml's.
# hadolint ignore=DL3013
RUN python3 -m venv --system-site-packages /opt/venv \
    && pip install --no-cache-dir . "${CUDA_BINDINGS}" \
    && useradd --create-home --uid 1001 user

USER 1001
WORKDIR /data
ENTRYPOINT ["resnet-export"]
CMD ["doctor"]
