"""Networks: the abstract contract, DeepLabV3+ on any timm encoder that can be dilated, DPT on plain vision
transformers, segmentation_models_pytorch as an option, encoders and their weights."""
