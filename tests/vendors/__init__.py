"""Every kernel through the compilers of AMD's and Intel's drivers, without their cards (`make vendors`)."""
