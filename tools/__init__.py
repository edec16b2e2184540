"""Programs for people who work on the appliance or look after one."""
