"""The plug-in gta-transformers: Hugging Face's vision transformers as models of `gta`.

The family is in `gta_transformers.family`; `gta_transformers.kinds` turns a config.json into an
architecture of timm, `gta_transformers.example` writes a small model.
"""
