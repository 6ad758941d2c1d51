"""Networks: the abstract contract, DeepLabV3+ on any timm encoder that can be dilated, encoders and their weights."""
