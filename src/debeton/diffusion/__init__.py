"""The project's own diffusion model (CDPM): small, conditional, in pixel space; trained by the loop, sampled here."""
