# What is refused, before anything is made.

run "a_name_that_a_load_balancer_would_not_take" {
  command = plan

  variables {
    name = "Mayfly_of_a_very_long_name"
  }

  expect_failures = [var.name]
}

run "one_zone" {
  command = plan

  variables {
    zones = 1
  }

  expect_failures = [var.zones]
}

run "a_network_too_small" {
  command = plan

  variables {
    vpc_cidr = "10.0.0.0/24"
  }

  expect_failures = [var.vpc_cidr]
}

run "a_kafka_without_the_new_group_protocol" {
  command = plan

  variables {
    kafka_version = "3.9.x"
  }

  expect_failures = [var.kafka_version]
}

run "a_tag_that_says_nothing" {
  command = plan

  variables {
    image_tag = "latest"
  }

  expect_failures = [var.image_tag]
}

run "functions_that_nobody_could_name" {
  command = plan

  variables {
    functions_tag = "latest"
  }

  expect_failures = [var.functions_tag]
}

run "a_grace_that_no_deployment_waits_for" {
  command = plan

  variables {
    grace_seconds = 7200
  }

  expect_failures = [var.grace_seconds]
}

run "a_gateway_that_fargate_has_not" {
  command = plan

  variables {
    gateway = { cpu = 1024, memory = 512, min = 1, max = 2 }
  }

  expect_failures = [var.gateway]
}

run "hosts_of_another_architecture" {
  command = plan

  variables {
    dispatcher = { instance_type = "c7g.large", disk_gib = 50, slots = 8, min = 1, max = 2, waiting_tasks = 100 }
  }

  expect_failures = [var.dispatcher]
}

run "egress_that_cuts_hosts_off" {
  command = plan

  variables {
    egress_ports = [25]
  }

  expect_failures = [var.egress_ports]
}

run "more_dispatchers_than_partitions" {
  command = plan

  variables {
    partitions = 8
    dispatcher = { instance_type = "c7i.large", disk_gib = 50, slots = 8, min = 1, max = 9, waiting_tasks = 100 }
  }

  expect_failures = [aws_ecs_service.dispatcher]
}

run "a_domain_without_its_zone" {
  command = plan

  variables {
    domain_name = "mayfly.example.com"
  }

  expect_failures = [aws_acm_certificate.this]
}

run "a_disk_that_shrinks" {
  command = plan

  variables {
    broker_volume_gib     = 500
    broker_volume_max_gib = 100
  }

  expect_failures = [aws_msk_cluster.this]
}
