# The embedded stack in an image. Unbuilt: no Docker engine was at hand when this was written.
FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends git make && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/aqn
COPY pyproject.toml constraints.txt README.md LICENSE Makefile ./
COPY experiment_specs experiment_specs
COPY orchestrator orchestrator
COPY workers workers
COPY db db
COPY dashboards dashboards
RUN pip install --no-cache-dir 'uv>=0.9,<1' \
    && uv pip install --system --compile-bytecode --torch-backend=cpu -c constraints.txt '.[cpu]'
ENV AQN_HOME=/var/lib/aqn
VOLUME /var/lib/aqn
ENTRYPOINT ["aqn"]
CMD ["doctor"]
