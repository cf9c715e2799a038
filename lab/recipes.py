"""What the images consist of that the lab builds itself: Debian packages and a few texts. Pure."""

from dataclasses import dataclass

from lab.errors import UsageError
from lab.layers import Entry, ImageConfig, directory, text
from lab.plan import suggest

NGINX_CONF = """user www-data;
worker_processes 1;
pid /run/nginx.pid;
error_log stderr;
events { worker_connections 256; }
http {
    include mime.types;
    access_log /dev/stdout;
    server {
        listen 80 default_server;
        root /var/www/html;
    }
}
"""

GUESTBOOK = """#!/bin/sh
# The guestbook: writes go to the redis master, reads to a slave. Both are found by the
# variables that every container has for the services that were there before it.
#   /?cmd=set&key=K&value=V    /?cmd=get&key=K    both answer JSON; / is a page
set -f
pod=$(hostname)
cmd= key=messages value=
IFS='&'
for pair in $QUERY_STRING; do
    case $pair in
        cmd=*) cmd=${pair#*=} ;;
        key=*) key=$(httpd -d "${pair#*=}") ;;
        value=*) value=$(httpd -d "${pair#*=}") ;;
    esac
done
unset IFS

answer() {
    printf 'Status: %s\\r\\nContent-Type: %s\\r\\nX-Served-By: %s\\r\\n\\r\\n%s\\n' \\
        "$1" "$2" "$pod" "$3"
    exit 0
}
redis() {
    host=$1 port=$2
    shift 2
    [ "$host" ] || { echo "no such service when this pod was started"; return 1; }
    timeout 5 redis-cli -e -h "$host" -p "$port" "$@" 2>&1
}
master() { redis "$REDIS_MASTER_SERVICE_HOST" "$REDIS_MASTER_SERVICE_PORT" "$@"; }
slave() { redis "$REDIS_SLAVE_SERVICE_HOST" "$REDIS_SLAVE_SERVICE_PORT" "$@"; }
json() { printf %s "$1" | sed 's/[\\\\"]/\\\\&/g; $!s/$/\\\\n/' | tr -d '\\000-\\037'; }
failed() { answer '502 Bad Gateway' application/json "{\\"error\\": \\"redis: $(json "$1")\\"}"; }

case $cmd in
    set)
        said=$(master SET "$key" "$value") || failed "$said"
        answer '200 OK' application/json '{"message": "Updated"}'
        ;;
    get)
        said=$(slave GET "$key") || failed "$said"
        answer '200 OK' application/json "{\\"data\\": \\"$(json "$said")\\"}"
        ;;
    '') ;;
    *) answer '400 Bad Request' application/json '{"error": "cmd is get or set"}' ;;
esac
said=$(slave GET messages) || failed "$said"
answer '200 OK' 'text/html; charset=utf-8' "<!DOCTYPE html>
<html lang=en><title>Guestbook</title>
<h1>Guestbook</h1>
<p id=messages>$(httpd -e "$said")</p>
<form><input type=hidden name=cmd value=set><input type=hidden name=key value=messages>
<input name=value aria-label=Message required> <button>Sign</button></form>
<p>served by $pod</p>"
"""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What an image consists of: *programs* come with their libraries, *data* packages alone."""

    config: ImageConfig
    programs: tuple[str, ...]
    data: tuple[str, ...] = ()
    extra: tuple[tuple[str, Entry], ...] = ()


RECIPES = {
    "busybox": Recipe(ImageConfig("barenode/busybox:lab", ("sh",)), ("busybox-static",)),
    "etcd": Recipe(
        ImageConfig("barenode/etcd:lab", ("etcd",), ports=("2379/tcp", "2380/tcp")),
        ("etcd-server", "etcd-client", "busybox-static"),
    ),
    "guestbook": Recipe(
        ImageConfig(
            "barenode/guestbook:lab",
            ("httpd", "-f", "-v", "-p", "80", "-h", "/var/www/guestbook"),
            ports=("80/tcp",),
        ),
        ("redis-tools", "busybox-static"),
        extra=(("var/www/guestbook/cgi-bin/index.cgi", text(GUESTBOOK, 0o755)),),
    ),
    "nginx": Recipe(
        ImageConfig(
            "barenode/nginx:lab",
            ("nginx", "-g", "daemon off;"),
            ports=("80/tcp",),
            stop_signal="SIGQUIT",
        ),
        ("nginx", "busybox-static"),
        ("nginx-common",),
        (
            ("etc/nginx/nginx.conf", text(NGINX_CONF)),
            ("var/lib/nginx", directory(uid=33, gid=33)),
            ("var/www/html/index.html", text("barenode\n")),
        ),
    ),
    "redis": Recipe(
        ImageConfig(
            "barenode/redis:lab",
            # Without a password, which is refused by default, and without files.
            ("redis-server", "--protected-mode", "no", "--save", ""),
            ports=("6379/tcp",),
        ),
        ("redis-server", "redis-tools", "busybox-static"),
    ),
}


def recipe(name: str) -> Recipe:
    """The recipe called *name*; raises UsageError."""
    if name not in RECIPES:
        raise UsageError(f"no image {name!r}{suggest(name, RECIPES)}: {', '.join(sorted(RECIPES))}")
    return RECIPES[name]
