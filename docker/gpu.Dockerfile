# A GPU node: torch 2.13.0 for CUDA 13.0, vLLM 0.27.1, verl 0.9.1 (docs/gpu-node.md). Unbuilt: no Docker engine was at hand.
# The host needs NVIDIA's driver 580 or newer.
FROM nvidia/cuda:13.0.1-cudnn-devel-ubuntu24.04
ENV DEBIAN_FRONTEND=noninteractive
# Ubuntu's own versions: security updates are wanted
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends git make python3.12 python3.12-dev python3.12-venv build-essential \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/aqn
COPY pyproject.toml constraints-gpu.txt README.md LICENSE Makefile ./
COPY experiment_specs experiment_specs
COPY orchestrator orchestrator
COPY workers workers
COPY db db
COPY dashboards dashboards
RUN python3.12 -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir 'uv>=0.9,<1' \
    && /opt/venv/bin/uv pip install --python /opt/venv/bin/python --compile-bytecode \
        -c constraints-gpu.txt '.[gpu,postgresql]'
ENV PATH=/opt/venv/bin:$PATH AQN_HOME=/var/lib/aqn
RUN useradd --uid 10001 --create-home aqn && mkdir -p /var/lib/aqn && chown aqn /var/lib/aqn
USER 10001
VOLUME /var/lib/aqn
ENTRYPOINT ["aqn"]
CMD ["doctor"]
