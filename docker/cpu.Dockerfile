# The embedded stack. Unbuilt: no Docker engine was at hand.
FROM python:3.11-slim
# Debian's own versions: security updates are wanted
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends git make && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/aqn
COPY pyproject.toml constraints.txt README.md LICENSE Makefile ./
COPY experiment_specs experiment_specs
COPY orchestrator orchestrator
COPY workers workers
COPY db db
COPY dashboards dashboards
RUN pip install --no-cache-dir 'uv>=0.9,<1' \
    && uv pip install --system --compile-bytecode --torch-backend=cpu -c constraints.txt '.[cpu,postgresql]'
ENV AQN_HOME=/var/lib/aqn
RUN useradd --uid 10001 --create-home aqn && mkdir -p /var/lib/aqn && chown aqn /var/lib/aqn
USER 10001
VOLUME /var/lib/aqn
ENTRYPOINT ["aqn"]
CMD ["doctor"]
