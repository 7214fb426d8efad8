# The pipeline with everything it needs: Prefect workers, MLflow server, stages. Build: docker compose build
# requirements.lock has PyTorch with its CUDA libraries (6 GB), so one image serves machines with and without GPUs;
# with them the container needs the NVIDIA toolkit and a driver for CUDA 13.
FROM python:3.11-slim

# git: revisions and experiments; tini: forwards signals, so that a stopped container ends its stages.
RUN apt-get update && apt-get install -y --no-install-recommends git tini && rm -rf /var/lib/apt/lists/*

WORKDIR /app
COPY requirements.lock pyproject.toml ./
RUN pip install --no-cache-dir --no-deps -r requirements.lock
COPY . .
RUN pip install --no-cache-dir --no-deps --no-build-isolation -e . \
 && git config --system user.name ghn && git config --system user.email ghn@localhost \
 && git config --system --add safe.directory /app \
 && useradd --create-home ghn && chown -R ghn /app
USER ghn

ENV PYTHONUNBUFFERED=1 GHN_ROOT=/app
ENTRYPOINT ["tini", "--"]
CMD ["ghn", "--help"]
