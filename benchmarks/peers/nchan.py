"""Baseline (d): nginx with nchan, one worker, memory store, on a configuration of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

MODULE = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")

_CONFIGURATION = """
load_module {module};
daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log crit;
{user}
events {{
    worker_connections 19000;
    multi_accept on;
}}
http {{
    access_log off;
    keepalive_requests 100000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_body_buffer_size 64k;
    tcp_nodelay on;
    nchan_shared_memory_size 256m;
    server {{
        listen 127.0.0.1:{port} backlog=2048;
        location = /publish {{
            nchan_publisher;
            nchan_channel_id bench;
            nchan_message_buffer_length 100;
            nchan_message_timeout 30s;
        }}
        location = /subscribe {{
            nchan_subscriber websocket;
            nchan_channel_id bench;
            nchan_subscriber_first_message newest;
        }}
    }}
}}
"""


def program() -> str | None:
    """Return the path of nginx where nchan is installed, too."""
    return (shutil.which("nginx") or shutil.which("/usr/sbin/nginx")) if MODULE.exists() else None


def configuration(folder: Path, port: int, *, as_root: bool) -> str:
    """Return nginx's configuration; all that it writes is in ``folder``."""
    return _CONFIGURATION.format(module=MODULE, folder=folder, port=port, user="user root;" if as_root else "")
