"""Contains the tests. This folder is a package, so that worker processes can import what a test defines."""
