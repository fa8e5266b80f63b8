accelerate launch train_leco.py ^
  --pretrained_model_name_or_path="models\sd15" ^
  --output_name="detail_slider" ^
  --prompts_file="prompts.yaml" ^
  --network_dim=8 ^
  --network_alpha=4 ^
  --learning_rate=1e-4 ^
  --max_train_steps=500 ^
  --max_denoising_steps=40 ^
  --mixed_precision=bf16
