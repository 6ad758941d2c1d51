"""Segmentation networks: their base class, DeepLabV3+ on any timm encoder that can be dilated, DPT on plain vision
transformers, and segmentation_models_pytorch as an option; their encoders and weights."""
