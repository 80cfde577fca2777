"""The table: for each architecture its classes in transformers, its kind of input, and a small configuration."""

from __future__ import annotations

from typing import Any, NamedTuple

WORDS = 96


class Architecture(NamedTuple):
    """config and model are names in transformers; kind is a function's name in inputs.py."""

    config: str
    model: str
    kind: str
    options: dict[str, Any]


TEXT: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = TEXT | {"num_key_value_heads": 2, "head_dim": 8}
GPT = {
    "vocab_size": WORDS,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT |= {"pad_token_id": 0}
SEQ2SEQ = {"vocab_size": WORDS, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4}
SEQ2SEQ |= {"decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 64}
SEQ2SEQ |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
SEQ2SEQ |= {"forced_eos_token_id": None}
T5 = {
    "vocab_size": WORDS,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 4,
}
T5 |= {"pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0}
VISION = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
VISION |= {"intermediate_size": 48, "num_channels": 3}
STAGES = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32]}
SPEECH = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
SPEECH |= {"conv_dim": (16, 16, 16), "conv_stride": (5, 2, 2), "conv_kernel": (10, 3, 2), "num_feat_extract_layers": 3}
SPEECH |= {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "mask_time_length": 2, "pad_token_id": 0}
SPEECH |= {"layerdrop": 0.0}
TOWERS = {
    "text_config": {k: v for k, v in TEXT.items() if k != "bos_token_id"} | {"bos_token_id": 1},
    "vision_config": VISION,
    "projection_dim": 16,
}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}


def _text(name: str, **more: Any) -> Architecture:
    return Architecture(f"{name}Config", f"{name}ForMaskedLM", "masked", TEXT | more)


def _causal(name: str, base: dict[str, Any] = GROUPED, model: str = "", **more: Any) -> Architecture:
    return Architecture(f"{name}Config", model or f"{name}ForCausalLM", "causal", base | more)


def _seq2seq(name: str, base: dict[str, Any] = SEQ2SEQ, **more: Any) -> Architecture:
    head = "MTModel" if name == "Marian" else "ForConditionalGeneration"
    return Architecture(f"{name}Config", f"{name}{head}", "seq2seq", base | more)


def _image(name: str, base: dict[str, Any] = VISION, **more: Any) -> Architecture:
    return Architecture(f"{name}Config", f"{name}ForImageClassification", "image", base | {"num_labels": 5} | more)


ARCHITECTURES: dict[str, Architecture] = {
    # Encoders of text
    "BERT": _text("Bert"),
    "RoBERTa": _text("Roberta"),
    "XLM-RoBERTa": _text("XLMRoberta"),
    "CamemBERT": _text("Camembert"),
    "DistilBERT": Architecture("DistilBertConfig", "DistilBertForMaskedLM", "masked", {
        "vocab_size": WORDS, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 64}),
    "ALBERT": _text("Albert", embedding_size=16),
    "ELECTRA": _text("Electra", embedding_size=16),
    "DeBERTa": _text("Deberta", relative_attention=True, pos_att_type=["c2p", "p2c"], max_relative_positions=16),
    "DeBERTa v2": _text("DebertaV2", relative_attention=True, pos_att_type=["c2p", "p2c"], position_buckets=8),
    "MPNet": _text("MPNet"),
    "MobileBERT": _text("MobileBert", embedding_size=32, intra_bottleneck_size=32, true_hidden_size=32),
    "SqueezeBERT": _text("SqueezeBert", embedding_size=32, q_groups=2, k_groups=2, v_groups=2, post_attention_groups=1,
                         intermediate_groups=2, output_groups=2),
    "ConvBERT": _text("ConvBert", embedding_size=32, head_ratio=2, conv_kernel_size=3),
    "RoFormer": _text("RoFormer", embedding_size=32),
    "FNet": _text("FNet", use_tpu_fourier_optimizations=False),
    "Nystromformer": _text("Nystromformer", num_landmarks=12, segment_means_seq_len=12),
    "Funnel": Architecture("FunnelConfig", "FunnelForMaskedLM", "masked", {
        "vocab_size": WORDS, "block_sizes": [1, 1], "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 48}),
    "Longformer": _text("Longformer", attention_window=4),
    "BigBird": _text("BigBird", attention_type="block_sparse", block_size=2, num_random_blocks=1),
    "ModernBERT": _text("ModernBert", global_attn_every_n_layers=2, local_attention=4, cls_token_id=1, sep_token_id=2),
    "ESM": _text("Esm", mask_token_id=4, position_embedding_type="rotary"),
    "ERNIE": _text("Ernie"),
    "I-BERT": _text("IBert"),
    "LayoutLM": _text("LayoutLM"),
    "Perceiver": Architecture("PerceiverConfig", "PerceiverForMaskedLM", "masked", {
        "vocab_size": WORDS, "num_latents": 8, "d_latents": 32, "d_model": 32, "num_blocks": 1, "qk_channels": 32,
        "v_channels": 32, "num_self_attends_per_block": 2, "num_self_attention_heads": 4,
        "num_cross_attention_heads": 4,
        "max_position_embeddings": 12}),
    # Decoders of text
    "GPT-2": _causal("GPT2", GPT, "GPT2LMHeadModel"),
    "GPT-1": _causal("OpenAIGPT", GPT, "OpenAIGPTLMHeadModel"),
    "GPT-Neo": _causal("GPTNeo", {"vocab_size": WORDS, "hidden_size": 32, "num_layers": 2, "num_heads": 4,
                                  "window_size": 4,
                                  "attention_types": [[["global", "local"], 1]], "max_position_embeddings": 64,
                                  "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}),
    "GPT-NeoX": _causal("GPTNeoX", TEXT),
    "GPT-J": _causal("GPTJ", GPT, rotary_dim=4),
    "GPT-BigCode": _causal("GPTBigCode", GPT),
    "CodeGen": _causal("CodeGen", GPT, rotary_dim=4),
    "OPT": _causal("OPT", TEXT, ffn_dim=48, word_embed_proj_dim=32),
    "BLOOM": _causal("Bloom", {"vocab_size": WORDS, "hidden_size": 32, "n_layer": 2, "n_head": 4, "pad_token_id": 0,
                               "bos_token_id": 1, "eos_token_id": 2}),
    "Falcon": _causal("Falcon", TEXT, new_decoder_architecture=True, num_kv_heads=2),
    "Llama": _causal("Llama"),
    "Mistral": _causal("Mistral", sliding_window=4),
    "Mixtral": _causal("Mixtral", **EXPERTS),
    "Qwen2": _causal("Qwen2"),
    "Qwen2 MoE": _causal("Qwen2Moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16,
                         shared_expert_intermediate_size=16),
    "Qwen3": _causal("Qwen3"),
    "Qwen3 MoE": _causal("Qwen3Moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16),
    "Gemma": _causal("Gemma"),
    "Gemma 2": _causal("Gemma2", sliding_window=4, query_pre_attn_scalar=8),
    "Gemma 3": Architecture("Gemma3TextConfig", "Gemma3ForCausalLM", "causal", GROUPED | {
        "sliding_window": 4, "query_pre_attn_scalar": 8}),
    "Phi": _causal("Phi", TEXT),
    "Phi-3": _causal("Phi3", sliding_window=4),
    "StableLM": _causal("StableLm"),
    "MPT": _causal("Mpt", {"vocab_size": WORDS, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64,
                           "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}),
    "Cohere": _causal("Cohere"),
    "Granite": _causal("Granite"),
    "Granite MoE": _causal("GraniteMoe", **EXPERTS),
    "Helium": _causal("Helium"),
    "GLM": _causal("Glm"),
    "Nemotron": _causal("Nemotron"),
    "OLMo": _causal("Olmo"),
    "OLMo 2": _causal("Olmo2"),
    "OLMoE": _causal("Olmoe", num_experts=4, num_experts_per_tok=2),
    "Persimmon": _causal("Persimmon", TEXT),
    "StarCoder 2": _causal("Starcoder2", sliding_window=4),
    "SmolLM 3": _causal("SmolLM3"),
    "DBRX": _causal("Dbrx", {"vocab_size": WORDS, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64,
                             "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 1e4},
                             "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
                             "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}),
    "DeepSeek V3": _causal("DeepseekV3", TEXT, num_key_value_heads=4, q_lora_rank=16, kv_lora_rank=16,
                           qk_rope_head_dim=4,
                           qk_nope_head_dim=4, v_head_dim=8, n_routed_experts=4, num_experts_per_tok=2, n_group=2,
                           topk_group=1, moe_intermediate_size=16, first_k_dense_replace=1),
    "GPT-OSS": _causal("GptOss", **EXPERTS, sliding_window=4),
    "XGLM": _causal("XGLM", {"vocab_size": WORDS, "d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4,
                             "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}),
    "BioGPT": _causal("BioGpt", TEXT),
    "CTRL": _causal("CTRL", {"vocab_size": WORDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "dff": 48, "n_positions": 64,
                             "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}, "CTRLLMHeadModel"),
    "XLNet": _causal("XLNet", {"vocab_size": WORDS, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48,
                               "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}, "XLNetLMHeadModel"),
    "Mamba": _causal("Mamba", TEXT, state_size=4, expand=2, time_step_rank=4),
    "Mamba 2": _causal("Mamba2", TEXT, state_size=4, expand=2, num_heads=8, head_dim=8, n_groups=2, chunk_size=4),
    "Falcon Mamba": _causal("FalconMamba", TEXT, state_size=4, expand=2, time_step_rank=4),
    "RWKV": _causal("Rwkv", {"vocab_size": WORDS, "hidden_size": 32, "num_hidden_layers": 2,
                             "attention_hidden_size": 32,
                             "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "context_length": 64}),
    "RecurrentGemma": _causal("RecurrentGemma", GROUPED, lru_width=32, attention_window_size=4, num_hidden_layers=3),
    # Encoders and decoders of text
    "T5": _seq2seq("T5", T5),
    "mT5": _seq2seq("MT5", T5),
    "UMT5": _seq2seq("UMT5", T5),
    "LongT5": _seq2seq("LongT5", T5, local_radius=3, global_block_size=4),
    "Switch Transformers": _seq2seq("SwitchTransformers", T5, num_experts=4, expert_capacity=16,
                                    router_jitter_noise=0.0),
    "BART": _seq2seq("Bart"),
    "mBART": _seq2seq("MBart"),
    "Pegasus": _seq2seq("Pegasus"),
    "Marian": _seq2seq("Marian"),
    "M2M-100": _seq2seq("M2M100"),
    "Blenderbot": _seq2seq("Blenderbot"),
    "PLBart": _seq2seq("PLBart"),
    "LED": _seq2seq("LED", attention_window=4, max_encoder_position_embeddings=64, max_decoder_position_embeddings=64),
    "FSMT": Architecture("FSMTConfig", "FSMTForConditionalGeneration", "copied", SEQ2SEQ | {
        "src_vocab_size": WORDS, "tgt_vocab_size": WORDS, "langs": ["en", "de"]}),
    "ProphetNet": Architecture("ProphetNetConfig", "ProphetNetForConditionalGeneration", "seq2seq", {
        "vocab_size": WORDS, "hidden_size": 32, "num_encoder_layers": 2, "num_decoder_layers": 2, "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48, "num_encoder_attention_heads": 4, "num_decoder_attention_heads": 4, "ngram": 2,
        "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
        "decoder_start_token_id": 1, "disable_ngram_loss": False}),
    # Images
    "ViT": _image("ViT"),
    "DeiT": _image("DeiT"),
    "BEiT": _image("Beit", use_relative_position_bias=True),
    "DINOv2": _image("Dinov2"),
    "ViT MSN": _image("ViTMSN"),
    "Swin": _image("Swin", {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4],
                            "window_size": 4}),
    "Swin v2": _image("Swinv2", {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [1, 1],
                                 "num_heads": [2, 4], "window_size": 4}),
    "ConvNeXt": _image("ConvNext", STAGES),
    "ConvNeXt v2": _image("ConvNextV2", STAGES),
    "ResNet": _image("ResNet", STAGES, embedding_size=8),
    "RegNet": _image("RegNet", STAGES, embedding_size=8, groups_width=4),
    "MobileNet v2": _image("MobileNetV2", {"image_size": 64, "depth_multiplier": 0.25, "initializer_range": 0.3}),
    "MobileViT": _image("MobileViT", {"image_size": 64, "hidden_sizes": [16, 24, 32], "initializer_range": 0.2,
                                      "neck_hidden_sizes": [8, 8, 16, 16, 24, 24, 32], "num_attention_heads": 4}),
    "EfficientNet": _image("EfficientNet", {"image_size": 64, "width_coefficient": 0.25, "depth_coefficient": 0.25,
                                            "hidden_dim": 320, "initializer_range": 0.6}),
    "PVT": _image("Pvt", {"image_size": 64, "depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 16, 32],
                          "num_attention_heads": [1, 2, 2, 4]}),
    "PoolFormer": _image("PoolFormer", STAGES),
    "FocalNet": _image("FocalNet", {"image_size": 32, "embed_dim": 16, "depths": [1, 1], "focal_levels": [1, 1],
                                    "focal_windows": [3, 3]}),
    "LeViT": _image("Levit", {"image_size": 64, "hidden_sizes": [16, 24, 32], "num_attention_heads": [2, 3, 4],
                              "depths": [1, 1, 1], "key_dim": [8, 8, 8], "initializer_range": 0.2}),
    "SegFormer": Architecture("SegformerConfig", "SegformerForSemanticSegmentation", "segmentation", {
        "depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 16, 32], "num_attention_heads": [1, 2, 2, 4],
        "decoder_hidden_size": 16, "num_labels": 5}),
    "DETR": Architecture("DetrConfig", "DetrForObjectDetection", "detection", {
        "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4, "num_queries": 6,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "num_labels": 5,
        "use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None,
        "backbone_config": {"model_type": "resnet", "embedding_size": 8, "out_features": ["stage4"], **STAGES}}),
    "ViT MAE": Architecture("ViTMAEConfig", "ViTMAEForPreTraining", "autoencoder", VISION | {
        "decoder_hidden_size": 32, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 4,
        "decoder_intermediate_size": 48}),
    # Images and text
    "CLIP": Architecture("CLIPConfig", "CLIPModel", "towers", TOWERS),
    "SigLIP": Architecture("SiglipConfig", "SiglipModel", "towers", TOWERS),
    "BLIP": Architecture("BlipConfig", "BlipForImageTextRetrieval", "towers", TOWERS | {"image_text_hidden_size": 16}),
    "ViLT": Architecture("ViltConfig", "ViltForQuestionAnswering", "question", TEXT | VISION | {"num_labels": 5}),
    # Sound
    "Whisper": Architecture("WhisperConfig", "WhisperForConditionalGeneration", "sound", SEQ2SEQ | {
        "num_mel_bins": 8, "max_source_positions": 20, "max_target_positions": 40, "suppress_tokens": None,
        "begin_suppress_tokens": None}),
    "Wav2Vec2": Architecture("Wav2Vec2Config", "Wav2Vec2ForCTC", "speech", SPEECH),
    "HuBERT": Architecture("HubertConfig", "HubertForCTC", "speech", SPEECH),
    "WavLM": Architecture("WavLMConfig", "WavLMForCTC", "speech", SPEECH),
    "UniSpeech": Architecture("UniSpeechConfig", "UniSpeechForCTC", "speech", SPEECH | {"num_ctc_classes": WORDS}),
    "Audio Spectrogram Transformer": Architecture("ASTConfig", "ASTForAudioClassification", "spectrogram", VISION | {
        "num_mel_bins": 16, "max_length": 24, "frequency_stride": 4, "time_stride": 4, "num_labels": 5}),
}  # fmt: skip
