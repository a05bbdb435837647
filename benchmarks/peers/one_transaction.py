"""Baseline (c): an alert stored the tutorial's way, one transaction a request.

The database's address is in ``BENCH_URL``, the secret of the tokens in ``BENCH_SECRET``.
"""

from __future__ import annotations

import os
import uuid
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import jwt
from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel
from sqlalchemy import JSON, DateTime, Text, Uuid
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Base(DeclarativeBase):
    """The metadata."""


class Alert(Base):
    """The one table."""

    __tablename__ = "alerts"
    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    source: Mapped[str] = mapped_column(Text)
    topic: Mapped[str] = mapped_column(Text)
    severity: Mapped[str] = mapped_column(Text)
    title: Mapped[str] = mapped_column(Text)
    body: Mapped[str | None] = mapped_column(Text)
    attributes: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class AlertIn(BaseModel):
    """What is posted."""

    title: str
    topic: str = "default"
    severity: str = "info"
    body: str | None = None
    attributes: dict[str, Any] = {}


engine = create_async_engine(
    os.environ["BENCH_URL"].replace("postgresql://", "postgresql+asyncpg://"),
    pool_size=20,
    max_overflow=0,
    connect_args={"server_settings": {"synchronous_commit": "on"}},
)
session = async_sessionmaker(engine, expire_on_commit=False)


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Make the table."""
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield


app = FastAPI(lifespan=lifespan)


def subject(credentials: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]) -> str:
    """Check the bearer and return who it is."""
    try:
        claims = jwt.decode(
            credentials.credentials,
            os.environ["BENCH_SECRET"],
            algorithms=["HS256"],
            audience="tocsin",
            issuer="tocsin",
        )
    except jwt.InvalidTokenError:
        raise HTTPException(401) from None
    return str(claims["sub"])


@app.post("/alerts", status_code=201)
async def post(alert: AlertIn, source: Annotated[str, Depends(subject)]) -> dict[str, str]:
    """Store an alert."""
    row = Alert(id=uuid.uuid4(), source=source, created_at=datetime.now(UTC), **alert.model_dump())
    async with session() as tx:
        tx.add(row)
        await tx.commit()
    return {"id": str(row.id)}
