#!/usr/bin/env bash
# Builds the robot into a folder. Debian: apt-get install fastddsgen libfastrtps-dev g++
# Usage: build.sh FOLDER
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
mkdir -p "$1"
cp "$here/Robot.idl" "$1/"
cd "$1"
fastddsgen -replace Robot.idl >fastddsgen.log 2>&1 || { cat fastddsgen.log >&2; exit 1; }
g++ -std=c++17 -O1 -I. -o robot "$here/robot.cpp" Robot.cxx RobotPubSubTypes.cxx -lfastrtps -lfastcdr -lpthread
