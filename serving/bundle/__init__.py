"""Bundles: exported models that encode texts, pictures and features without Paddle."""
