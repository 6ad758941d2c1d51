"""ssss-zoo: semi-supervised semantic segmentation methods side by side, on one engine, with parts that mix."""

__version__ = "0.1.0"
