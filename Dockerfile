# The service alone: its PostgreSQL is another container (see docker-compose.yml).
FROM python:3.13-slim

WORKDIR /app
COPY requirements.lock ./
RUN pip install --no-cache-dir --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY alembic ./alembic
COPY service ./service
RUN pip install --no-cache-dir --no-deps --no-build-isolation -e . \
    && useradd --system --no-create-home tocsin
USER tocsin

ENV TOCSIN_HOST=0.0.0.0 TOCSIN_PORT=8000 TOCSIN_LOG_FORMAT=json PYTHONUNBUFFERED=1
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
# On SIGTERM the service stops accepting, finishes requests in progress, closes streams with 1012, and flushes the ledger.
STOPSIGNAL SIGTERM
ENTRYPOINT ["tocsin"]
CMD ["serve"]
