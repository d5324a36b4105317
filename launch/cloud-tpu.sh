#!/usr/bin/env bash
# Train on a slice of Cloud TPUs: make it, install minivim on all its workers, train,
# start again after whatever ended a run, delete the slice. See launch/README.md.
set -euo pipefail

usage() {
  cat <<'END'
usage: launch/cloud-tpu.sh [options] -- train STAGE RECIPE --data SPEC --workdir gs://...

What comes after -- is the command line of minivim, without --distributed, which is
added. Every gs://BUCKET/PATH in it is mounted on all workers and replaced by the path
there. The workdir has to be in a bucket: a worker's disk goes with the slice.

  --name NAME          of the slice               (NAME, default minivim)
  --zone ZONE          such as us-central2-b      (ZONE)
  --type TYPE          accelerator, default v4-8  (ACCELERATOR_TYPE)
  --project PROJECT    default: that of gcloud    (PROJECT)
  --software VERSION   default tpu-ubuntu2204-base, for v4  (SOFTWARE)
  --gcsfuse gs://...   its .deb, for images that lack it  (GCSFUSE)
  --spot               cheaper, may be taken away at any time
  --restarts N         give up after N restarts, default 100
  --keep               do not delete the slice at the end
  --dry-run            print the commands and run none of them

Variables in brackets say the same. The exit code is that of the last training command;
2 is a mistake in the command, which no restart mends.
END
}

name=${NAME:-minivim} zone=${ZONE:-} type=${ACCELERATOR_TYPE:-v4-8}
project=${PROJECT:-} software=${SOFTWARE:-tpu-ubuntu2204-base} gcsfuse=${GCSFUSE:-}
spot=no restarts=100 keep=no dry=no
pause=${LAUNCH_PAUSE:-30} # seconds between two questions or attempts
mounts=/mnt/gcs
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

fail() {
  printf 'cloud-tpu: %s\n' "$*" >&2
  exit 2
}

say() { printf 'cloud-tpu: %s\n' "$*" >&2; }

while [ $# -gt 0 ]; do
  case $1 in
    --name | --zone | --type | --project | --software | --gcsfuse | --restarts)
      [ $# -gt 1 ] || fail "$1 needs a value"
      printf -v "${1#--}" %s "$2"
      shift
      ;;
    --spot) spot=yes ;;
    --keep) keep=yes ;;
    --dry-run) dry=yes ;;
    -h | --help)
      usage
      exit 0
      ;;
    --)
      shift
      break
      ;;
    *) fail "no option $1; see --help" ;;
  esac
  shift
done
[ "${1:-}" = train ] || fail "give the command after --, such as -- train prior vim-large"
[ -n "$zone" ] || fail "give --zone ZONE"
case $restarts in '' | *[!0-9]*) fail "--restarts $restarts is not a whole number" ;; esac

# --- what to run -------------------------------------------------------------------

# The words as a shell reads them, in single quotes where they need it.
quoted() {
  local word line=''
  for word in "$@"; do
    case $word in
      '' | *[!A-Za-z0-9_./:=,@%+~-]* | '~'*) word="'${word//\'/\'\\\'\'}'" ;;
    esac
    line+="$word "
  done
  printf %s "${line% }"
}

# Several commands for one shell, each only if the one before succeeded.
joined() {
  local line=$1
  shift
  for step in "$@"; do line+=" && $step"; done
  printf %s "$line"
}

buckets=() command=() workdir='' before=''
for word in "$@"; do
  case $word in
    gs://?* | *=gs://?*)
      path=${word#*gs://}
      bucket=${path%%/*}
      case " ${buckets[*]-} " in *" $bucket "*) ;; *) buckets+=("$bucket") ;; esac
      word=${word%%gs://*}$mounts/$path
      [ "$before" != --workdir ] || workdir=$bucket
      ;;
  esac
  case $word in --workdir=$mounts/*) workdir=$bucket ;; esac
  before=$word
  command+=("$word")
done
[ -n "$workdir" ] || fail "give --workdir gs://BUCKET/PATH, so that a new slice can go on"
case " $* " in *' --distributed '*) ;; *) command+=(--distributed) ;; esac

# --- commands ----------------------------------------------------------------------

run() {
  if [ "$dry" = yes ]; then
    printf '%s\n' "$(quoted "$@")"
  else
    "$@"
  fi
}

where=(--zone "$zone")
[ -z "$project" ] || where+=(--project "$project")
tier=()
[ "$spot" = no ] || tier=(--spot)

tpu() { run gcloud compute tpus "$@" "${where[@]}"; }

on_all_workers() { tpu tpu-vm ssh "$name" --worker all --command "$1"; }

# One word about the slice, or about the request for it; empty where there is none.
state_of() {
  [ "$dry" = no ] || return 0
  gcloud compute tpus "$1" describe "$name" --format "value($2)" "${where[@]}" \
    2>/dev/null || true
}

# --- the slice ---------------------------------------------------------------------

wait_for_request() {
  local state=''
  while [ "$dry" = no ]; do
    state=$(state_of queued-resources state.state)
    case $state in
      ACTIVE) return 0 ;;
      FAILED | SUSPENDING | SUSPENDED | '') return 1 ;;
    esac
    say "request for $type: $state"
    sleep "$pause"
  done
}

delete_slice() {
  # A slice that was made without a request is not deleted with it.
  tpu queued-resources delete "$name" --force --quiet || true
  if [ "$dry" = yes ] || [ -n "$(state_of tpu-vm state)" ]; then
    tpu tpu-vm delete "$name" --quiet || true
  fi
}

make_slice() {
  if tpu queued-resources create "$name" --node-id "$name" \
    --accelerator-type "$type" --runtime-version "$software" \
    ${tier[@]+"${tier[@]}"} && wait_for_request; then
    return 0
  fi
  say "no slice from the queue; asking for one directly"
  delete_slice
  tpu tpu-vm create "$name" --accelerator-type "$type" --version "$software" \
    ${tier[@]+"${tier[@]}"}
}

# What is committed, and a Python for it: that of the image is too old. A worker's shell
# expands the tildes.
# shellcheck disable=SC2088
install_minivim() {
  local archive
  archive=${TMPDIR:-/tmp}/minivim-$name.tar.gz
  run git -C "$checkout" archive --format tar.gz --output "$archive" HEAD &&
    tpu tpu-vm scp "$archive" "$name:minivim.tar.gz" --worker all &&
    on_all_workers "$(
      joined 'rm -rf minivim' 'mkdir minivim' 'tar xzf minivim.tar.gz -C minivim' \
        'python3 -m pip install --quiet --user uv' \
        '~/.local/bin/uv venv --quiet --clear --python 3.12 minivim-env' \
        'cd minivim' \
        "~/.local/bin/uv pip install --quiet --python ~/minivim-env \
-c constraints.txt -e '.[plan]'"
    )"
}

# From a package in a bucket, where the image does not have it.
install_gcsfuse='command -v gcsfuse >/dev/null || { '
if [ -n "$gcsfuse" ]; then
  install_gcsfuse+="gcloud storage cp $(quoted "$gcsfuse") /tmp/gcsfuse.deb && \
sudo apt-get -qq install -y /tmp/gcsfuse.deb; }"
else
  install_gcsfuse+='echo "no gcsfuse on this image; give --gcsfuse" >&2; exit 2; }'
fi

mount_buckets() {
  local bucket place options steps=("$install_gcsfuse")
  for bucket in "${buckets[@]}"; do
    place=$(quoted "$mounts/$bucket")
    # A checkpoint is finished by renaming its folder. gcsfuse does that object by
    # object, up to this number, unless the bucket has a hierarchical namespace.
    options='--implicit-dirs --rename-dir-limit 100000'
    # Workers must see at once what another one has written.
    [ "$bucket" != "$workdir" ] || options+=' --metadata-cache-ttl-secs 0'
    # shellcheck disable=SC2016
    steps+=('sudo install -d -o "$USER" '"$place"
      "{ mountpoint -q $place || gcsfuse $options $(quoted "$bucket") $place; }")
  done
  on_all_workers "$(joined "${steps[@]}")"
}

# --- train -------------------------------------------------------------------------

# What a lost connection left running would hold the TPU; it saves when it is asked to
# stop. The brackets keep the pattern from finding itself.
pattern='[m]inivim-env/bin/minivim train'
leftovers="! pkill -TERM -f '$pattern' || while pgrep -f '$pattern' >/dev/null; \
do sleep 1; done"

train() {
  # Without a TPU the command shall fail, not train on the workers' processors.
  on_all_workers \
    "JAX_PLATFORMS=tpu,cpu minivim-env/bin/minivim $(quoted "${command[@]}")"
}

# Everything up to the end of a training command, whose exit code it has; 1 if it does
# not come that far.
made=no installed=no restarted=0
attempt() {
  if [ "$(state_of tpu-vm state)" != READY ]; then
    [ "$made" = no ] || delete_slice
    made=yes installed=no
    if ! make_slice; then
      [ "$restarted" -gt 0 ] || exit 1 # the request itself is wrong
      return 1
    fi
  else
    made=yes
    [ "$restarted" = 0 ] || on_all_workers "$leftovers" || return 1
  fi
  [ "$installed" = yes ] || install_minivim || return 1
  installed=yes
  mount_buckets || return 1
  train
}

finish() {
  local code=$?
  trap - EXIT
  if [ "$made" = yes ] && [ "$keep" = no ]; then
    delete_slice
  elif [ "$made" = yes ]; then
    say "$name is kept, and paid for until it is deleted"
  fi
  exit "$code"
}

[ "$dry" = yes ] || command -v gcloud >/dev/null || fail "gcloud is not installed"
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

while :; do
  code=0
  attempt || code=$?
  case $code in
    0) exit 0 ;;
    2)
      say "exit 2: a mistake in the command, not started again"
      exit 2
      ;;
  esac
  if [ "$restarted" -ge "$restarts" ]; then
    say "exit $code after $restarted restarts; giving up"
    exit "$code"
  fi
  restarted=$((restarted + 1))
  say "exit $code; restart $restarted of at most $restarts"
  sleep "$pause"
done
