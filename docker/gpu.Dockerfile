# A GPU node: verl 0.9.1 with its own pins (torch 2.11, vLLM 0.24). Unbuilt: no Docker engine was at hand.
FROM nvidia/cuda:12.9.1-cudnn-devel-ubuntu22.04
ENV DEBIAN_FRONTEND=noninteractive
# Ubuntu's own versions: security updates are wanted
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends git make python3.11 python3.11-dev python3.11-venv build-essential \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/aqn
COPY pyproject.toml README.md LICENSE Makefile ./
COPY experiment_specs experiment_specs
COPY orchestrator orchestrator
COPY workers workers
COPY db db
COPY dashboards dashboards
RUN python3.11 -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir 'uv>=0.9,<1' \
    && /opt/venv/bin/uv pip install --python /opt/venv/bin/python --compile-bytecode '.[gpu,postgresql]'
ENV PATH=/opt/venv/bin:$PATH AQN_HOME=/var/lib/aqn
RUN useradd --uid 10001 --create-home aqn && mkdir -p /var/lib/aqn && chown aqn /var/lib/aqn
USER 10001
VOLUME /var/lib/aqn
ENTRYPOINT ["aqn"]
CMD ["doctor"]
