#!/usr/bin/env bash
# A client of cairnkv in shell: docs/protocol.md on one page. Needs bash and od.
#
#   client.sh ping | get KEY | set KEY VALUE | clear KEY | incr KEY [N] | keys [PREFIX] | call NUMBER [ARGUMENT...]
#
# CAIRNKV_URL names the server: cairn://[USER:SECRET@]HOST:PORT. Exit codes: 0 for found, 1 for not found, 2 for an error.
# Arguments are shell words, so they hold no zero bytes; a value that is printed may hold any.
set -euo pipefail
export LC_ALL=C    # ${#text} counts bytes
trap '' PIPE       # a failed write must not end the script: the server may have sent an error before it closed

fail() { printf 'client.sh: %s\n' "$*" >&2; exit 2; }

# -- bytes -------------------------------------------------------------------------------------------------------------

be16() { local hex; printf -v hex %04x "$1"; printf "\\x${hex:0:2}\\x${hex:2:2}"; }
be32() { local hex; printf -v hex %08x "$1"; printf "\\x${hex:0:2}\\x${hex:2:2}\\x${hex:4:2}\\x${hex:6:2}"; }

frame() { # NUMBER STRING...: header 0, number, from number 16 on the count of strings, then each string with its length
  local number=$1 string; shift
  printf '\0'; be16 "$number"
  if ((number >= 16)); then be32 $#; fi
  for string; do be32 ${#string}; printf %s "$string"; done
}

number() { # read four bytes as a number
  local bytes; read -r -a bytes < <(head -c 4 <&3 | od -An -v -tu1) || true
  ((${#bytes[@]} == 4)) || fail "the connection ended before the reply; the outcome of a write is unknown"
  echo $((bytes[0] << 24 | bytes[1] << 16 | bytes[2] << 8 | bytes[3]))
}

# -- a command and its reply -------------------------------------------------------------------------------------------

send() { frame "$@" >&3 2>/dev/null || true; }    # if sending fails, the server's last reply has the reason

begin_reply() { # read header, status and length, but not the payload
  local head; read -r -a head < <(head -c 2 <&3 | od -An -v -tu1) || true
  ((${#head[@]} == 2)) || fail "the connection ended before the reply; the outcome of a write is unknown"
  length=$(number)
  ((head[1] & 1)) || return 0                                   # success
  ((head[0] & 1)) && { head -c "$length" <&3 >/dev/null; exit 1; }  # "Key not found"
  fail "$(head -c "$length" <&3)"                               # a code and a message
}

print_reply() { begin_reply; head -c "$length" <&3; }

keys() { # PREFIX: print the keys, slice by slice, until the cursor is 0 again
  local cursor=0 left size
  while :; do
    send 28 "$cursor" 1000 "$1"
    begin_reply
    size=$(number); cursor=$(head -c "$size" <&3); left=$((length - 4 - size))
    while ((left > 0)); do
      size=$(number); head -c "$size" <&3; echo
      left=$((left - 4 - size))
    done
    [ "$cursor" != 0 ] || return 0
  done
}

# -- the command line --------------------------------------------------------------------------------------------------

address=${CAIRNKV_URL:-cairn://127.0.0.1:6555}; address=${address#cairn://}; address=${address%%/*}
login=${address%"${address##*@}"}; address=${address##*@}    # login: USER:SECRET@, or nothing
port=${address##*:}; [ "$port" != "$address" ] || port=6555
exec 3<>"/dev/tcp/${address%:*}/$port" || fail "cannot connect to $address"
if [ -n "$login" ]; then login=${login%@}; send 44 "${login%%:*}" "${login#*:}"; print_reply >/dev/null; fi

word=${1:-}; shift || true
case $word-$# in
  ping-0) send 3 ""; print_reply; echo ;;
  get-1) [ -n "$1" ] || fail "a key has 1 to 65,535 bytes"; send 0 "$1"; print_reply; echo ;;
  set-2) [ -n "$1" ] || fail "a key has 1 to 65,535 bytes"; send 1 "$1" "$2"; print_reply; echo ;;
  clear-1) [ -n "$1" ] || fail "a key has 1 to 65,535 bytes"; send 2 "$1"; print_reply; echo ;;
  incr-1 | incr-2) send 24 "$1" "${2:-1}"; print_reply; echo ;;
  keys-0 | keys-1) keys "${1:-}" ;;
  call-[1-9]*) send "$@"; print_reply; echo ;;
  *) fail "ping | get KEY | set KEY VALUE | clear KEY | incr KEY [N] | keys [PREFIX] | call NUMBER [ARGUMENT...]" ;;
esac
