# The pipeline with everything it needs: Prefect workers, MLflow server, stages. Build: docker compose build
# (python:3.11-slim is CPU-only as requirements.lock pins it; for GPUs install PyTorch's CUDA wheels over it.)
FROM python:3.11-slim

# git: revisions and experiments; tini: forwards signals, so that a stopped container ends its stages.
RUN apt-get update && apt-get install -y --no-install-recommends git tini && rm -rf /var/lib/apt/lists/*

WORKDIR /app
COPY requirements.lock pyproject.toml ./
RUN pip install --no-cache-dir -r requirements.lock
COPY . .
RUN pip install --no-cache-dir --no-deps --no-build-isolation -e . \
 && git config --system user.name ghn && git config --system user.email ghn@localhost \
 && git config --system --add safe.directory /app \
 && useradd --create-home ghn && chown -R ghn /app
USER ghn

ENV PYTHONUNBUFFERED=1 GHN_ROOT=/app
ENTRYPOINT ["tini", "--"]
CMD ["ghn", "--help"]
