"""What holds for all tests."""

from hypothesis import settings

# Timing decides no test: an example that takes long on a busy machine is no failure.
settings.register_profile("barenode", deadline=None)
settings.load_profile("barenode")
