#!/bin/bash
# Trains on a TPU pod made with gcloud, on all of its hosts; alexatm[tpu] is installed on each.
#   NAME=my-pod ZONE=us-east5-a SHARED=/mnt/shared docs/launch/tpu_pod.sh
# The same command goes on from the last checkpoint.
set -euo pipefail

NAME=${NAME:?name the TPU}
ZONE=${ZONE:?name its zone}
# Filestore, or a bucket with hierarchical namespace behind gcsfuse, mounted on every host; on a flat
# bucket gcsfuse renames no folder, and no checkpoint is ever finished.
SHARED=${SHARED:?name a folder that all hosts share}

gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all --command="
  exec alexatm --run_mode=train --cluster=tpu \
    --gin_file=experiments/alexatm_20b_v5p_256.gin \
    --gin.CACHE_DIR=\"'$SHARED/cache'\" \
    --gin.MODEL_DIR=\"'$SHARED/alexatm_20b'\" \
    --gin.WARM_START_PATH=\"'$SHARED/encoder'\""
