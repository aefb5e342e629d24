#!/usr/bin/env bash
# Makes a machine a node: the packages of requirements/cpu.txt or gpu.txt in ~/pit-ray-env, pit-ray among them, and that
# folder on the PATH, where `ray down` too looks for ray.
# Run by `ray up` from setup_commands; does nothing where the same lock is installed already.
#   setup-node.sh cpu|gpu
set -euo pipefail

source_folder="$HOME/pit-ray"
environment="$HOME/pit-ray-env"
lock="$source_folder/requirements/$1.txt"
want="$(sha256sum < "$lock")"

if [[ "$(cat "$environment/lock.sha256" 2> /dev/null)" != "$want" ]]; then
  python=""
  for candidate in python3.12 python3.11 python3; do
    if command -v "$candidate" > /dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
      python="$candidate"
      break
    fi
  done
  if [[ -z "$python" ]]; then
    echo "error: $(hostname) has no Python 3.11 or newer; take an image that has, for instance of Ubuntu 24.04" >&2
    exit 1
  fi
  if ! "$python" -c 'import ensurepip' 2> /dev/null || ! command -v c++ > /dev/null || ! command -v rsync > /dev/null; then
    sudo apt-get update -q
    sudo DEBIAN_FRONTEND=noninteractive apt-get install -y -q python3-venv g++ rsync
  fi
  echo "installing $(wc -l < "$lock") packages on $(hostname)"
  "$python" -m venv "$environment"
  "$environment/bin/pip" install --disable-pip-version-check -q --no-deps -r "$lock"
  echo "$want" > "$environment/lock.sha256"
fi
"$environment/bin/pip" install --disable-pip-version-check -q --no-deps --no-build-isolation -e "$source_folder"

on_path='export PATH="$HOME/pit-ray-env/bin:$PATH"'
grep -qxF "$on_path" ~/.bashrc || echo "$on_path" >> ~/.bashrc
