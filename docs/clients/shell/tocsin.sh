#!/usr/bin/env bash
# The loops of a program that posts, and of one that receives, with tocsin and jq.
#
#   tocsin.sh post                    posts an alert for each job that failed, a JSON object a line of standard input
#   tocsin.sh follow CONSUMER TOPIC   handles the events of a topic
#
# TOCSIN_TOKEN_FILE holds the token. Something renews it before it expires: it is read for each connection.
set -euo pipefail

# --8<-- [start:post]
post_all() {
  local job run posted
  jq --unbuffered -r '[.job, .run] | @tsv' | while IFS=$'\t' read -r job run; do
    # It retries for a minute. The key is what happened: sent again later, the alert is still stored once.
    if posted=$(tocsin send --title "$job failed" --topic "jobs.$job" --severity error --attribute "run=$run" \
      --idempotency-key "$job/$run"); then
      echo "stored ${posted#* }" # now remove it from the queue
    else
      echo "not stored" # it said why; put it aside
    fi
  done
}
# --8<-- [end:post]

# --8<-- [start:follow]
# Calls handle with the events of a topic. The cursor of the last that was handled is in a file: what tail acknowledges
# was written into the pipe, and may still wait for its work. Without the file it begins with the oldest event.
follow() { # CONSUMER TOPIC
  local after=0 cursor seq kind seconds title
  if [[ -s $1.cursor ]]; then after=$(<"$1.cursor"); fi
  tocsin tail --json --consumer "$1" --topic "$2" --after "$after" |
    jq --unbuffered -r '[.cursor, .seq, .kind, .alert.attributes.seconds // 0, .alert.title] | @tsv' |
    while IFS=$'\t' read -r cursor seq kind seconds title; do
      handle "$seq" "$kind" "$seconds" "$title" </dev/null
      echo "$cursor" >"$1.cursor"
    done
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
