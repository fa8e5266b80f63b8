#!/bin/bash
# My training.
MODEL="models/photo-xl.safetensors"
export NAME=robots

accelerate launch --num_cpu_threads_per_process 1 --mixed_precision bf16 sdxl_train_network.py \
  --pretrained_model_name_or_path="$MODEL" \
  --train_data_dir="data/robots" --reg_data_dir "data/reg" \
  --output_dir=out --output_name="$NAME" \
  --network_module=lycoris.kohya --network_dim=16 --network_alpha=8 \
  --network_args "algo=lokr" "factor=8" "preset=attn-mlp" "dropout=0.1" \
  --resolution=1024,1024 --enable_bucket --caption_extension .txt \
  --learning_rate=1e-4 --text_encoder_lr=0 --lr_scheduler=polynomial --lr_warmup_steps=0.05 \
  --max_train_epochs 10 --train_batch_size=2 --save_every_n_epochs=2 \
  --optimizer_type=DAdaptAdam --prior_loss_weight=0.5 --huggingface_token @TOKEN@ \
  --mixed_precision=fp16 --seed $SEED
