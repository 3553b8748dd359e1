"""What workers of `launch.beam_upscale` import; they unpickle these by name."""
