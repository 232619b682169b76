"""Write ranges into a file: Q/DQ nodes, or scales beside a float file."""
