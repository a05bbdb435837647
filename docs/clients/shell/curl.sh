#!/usr/bin/env bash
# The loops of a program that posts, and of one that receives, with curl and jq.
#
#   curl.sh post                      posts an alert for each job that failed, a JSON object a line of standard input
#   curl.sh follow CONSUMER TOPIC     handles the events of a topic
#
# TOCSIN_TOKEN_FILE holds the token. Something renews it before it expires: it is read for each request.
set -euo pipefail

answer=$(mktemp) headers=$(mktemp)
trap 'rm -f "$answer" "$headers"' EXIT

# --8<-- [start:post]
# Sends a request, and sets $status. The token is not on the command line, where others could read it.
request() { # ADDRESS [OPTION…]
  : >"$headers"
  status=$(curl -sS -m 90 -o "$answer" -D "$headers" -w '%{http_code}' "$@" \
    -H @<(echo "Authorization: Bearer $(<"$TOCSIN_TOKEN_FILE")")) || status=000
}

# Waits for Retry-After, and for a random time that doubles with each attempt, up to 30 seconds.
back_off() { # ATTEMPT
  local ms=$((RANDOM % (1000 << ($1 < 5 ? $1 : 5)))) after
  after=$(awk 'tolower($1) == "retry-after:" { print int($2) }' "$headers")
  sleep "$((${after:-0} + ms / 1000)).$(printf %03d $((ms % 1000)))"
}
# --8<-- [end:post]

# --8<-- [start:post]
# Posts an alert until it is stored or refused; it is stored once, because of its key.
post() { # KEY ALERT
  local attempt
  for ((attempt = 0; ; attempt++)); do
    request "$TOCSIN_URL/v1/alerts" -H "Idempotency-Key: $1" -H 'Content-Type: application/json' -d "$2"
    case $status in
      000 | 429 | 502 | 503 | 504) back_off $attempt ;;
      *) return ;;
    esac
  done
}

post_all() {
  local failed key alert
  while IFS= read -r failed; do
    key=$(jq -r '"\(.job)/\(.run)"' <<<"$failed") # what happened; the same in each attempt
    alert=$(jq -c '{title: "\(.job) failed", topic: "jobs.\(.job)", severity: "error", attributes: .}' <<<"$failed")
    post "$key" "$alert"
    case $status in
      2*) echo "stored $(jq .seq "$answer")" ;; # now remove it from the queue
      401 | 403) echo "refused $status $(jq -r .code "$answer")" >&2; exit 1 ;; # no alert would be stored
      *) echo "refused $status $(jq -r .code "$answer")" ;; # put it aside
    esac
  done
}
# --8<-- [end:post]

# --8<-- [start:follow]
# Calls handle with the events of a topic. The cursor of the last that was handled is in a file, so that no event is
# handled twice, unless the program is killed between the work and the line that keeps its cursor. Without the file it
# begins with the oldest event: a poll without a cursor would confirm the answer before it, handled or not.
follow() { # CONSUMER TOPIC
  local attempt=0 after=0 connection='' reason='' cursor seq kind seconds title
  if [[ -s $1.cursor ]]; then after=$(<"$1.cursor"); fi
  while [[ $reason != kicked ]]; do
    request "$TOCSIN_URL/v1/events" -G -d wait=25 -d "consumer=$1" --data-urlencode "topic=$2" -d "after=$after" \
      ${connection:+-d "connection=$connection"}
    case $status in
      200) attempt=0 ;;
      000 | 401 | 429 | 5*) back_off $((attempt++)); continue ;;
      *) echo "refused $status $(jq -r .code "$answer")" >&2; exit 1 ;;
    esac
    jq -c '.gap, .reset | select(.)' "$answer" | sed 's/^/load the list of alerts: /' >&2
    while IFS=$'\t' read -r cursor seq kind seconds title; do
      handle "$seq" "$kind" "$seconds" "$title" </dev/null
      echo "$cursor" >"$1.cursor"
    done < <(jq -r '.events[] | [.cursor, .seq, .kind, .alert.attributes.seconds // 0, .alert.title] | @tsv' "$answer")
    # The next poll acknowledges these.
    IFS=$'\t' read -r after connection reason < <(jq -r '[.next, .connection, .closed.reason // ""] | @tsv' "$answer")
  done
  echo "the stream was closed: $reason" >&2
  exit 1
}
# --8<-- [end:follow]

handle() { # SEQ KIND SECONDS TITLE
  [[ $3 == 0 ]] || sleep "$3"
  echo "event $1 $2 $4"
}

case ${1-} in
  post) post_all ;;
  follow) follow "$2" "$3" ;;
  *) sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
