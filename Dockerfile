# The image of the service: one stage builds a virtual environment, the next copies it into the base image.
#
#   docker build -t vae-server --build-arg TORCH_INDEX=<an index with CPU builds of torch> .
#
# BASE_IMAGE is pinned by digest for all architectures. Another base image needs Python 3.11 or newer as `python`.
# TORCH_INDEX is used for torch alone. If it is empty, pip uses the default index, whose Linux build of torch includes
# gigabytes of CUDA libraries. EXTRAS=otel adds OpenTelemetry.
ARG BASE_IMAGE=python:3.11.16-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

FROM ${BASE_IMAGE} AS build
ARG TORCH_INDEX=
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/vae
WORKDIR /src
# Install torch in a layer of its own: this large layer stays cached when anything else changes.
COPY constraints.txt .
RUN /opt/vae/bin/pip install --constraint constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch
ARG EXTRAS=
COPY pyproject.toml README.md LICENSE ./
COPY app app
COPY model model
# Delete headers and test suites, which the service does not use.
RUN /opt/vae/bin/pip install --constraint constraints.txt ".${EXTRAS:+[$EXTRAS]}" \
    && /opt/vae/bin/pip uninstall --yes pip setuptools \
    && rm -rf /opt/vae/lib/python3*/site-packages/torch/include \
    && find /opt/vae/lib/python3*/site-packages -type d -name tests -prune -exec rm -rf {} +

FROM ${BASE_IMAGE}
RUN groupadd --gid 10001 vae && useradd --uid 10001 --gid vae --no-create-home --shell /usr/sbin/nologin vae
COPY --from=build /opt/vae /opt/vae
ENV PATH=/opt/vae/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 VAE_HOST=:: VAE_PORT=8000
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-m", "app.server.health_check"]
CMD ["vae", "serve"]
